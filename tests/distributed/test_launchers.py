"""Who is who, from the variables of each launcher."""

import pytest

from jaxgpt.distributed.hosts import HostsConfig, place
from jaxgpt.distributed.launchers import detect_placement
from jaxgpt.errors import ConfigError

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "node[007-009,12],big1",
    "SLURM_STEP_NUM_NODES": "5",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
JOBSET = {
    "JOBSET_NAME": "gpt",
    "REPLICATED_JOB_NAME": "hosts",
    "JAX_NUM_PROCESSES": "4",
    "JOB_COMPLETION_INDEX": "2",
}
BY_HAND = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}


def _summary(environment):
    found = detect_placement(environment)
    assert found is not None
    return found.coordinator, found.num_hosts, found.host_id, found.local_id


def test_each_launcher_is_understood():
    assert _summary(SLURM) == ("node007:30826", 5, 3, None)
    assert _summary(OPEN_MPI) == ("10.96.0.1:31240", 8, 5, 1)
    assert _summary(JOBSET) == ("gpt-hosts-0-0.gpt:29400", 4, 2, None)
    assert _summary(BY_HAND) == ("10.0.0.1:1234", 2, 1, None)


def test_all_hosts_of_a_step_agree_on_the_coordinator():
    found = [detect_placement({**SLURM, "SLURM_PROCID": str(host)}) for host in range(5)]
    assert len({one.coordinator for one in found if one}) == 1
    assert [one.host_id for one in found if one] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a", "a"), ("a,b", "a"), ("n[01,03-07]", "n01"), ("n[5-9],b", "n5"), ("x-1.y[2]", "x-1.y2")],
)
def test_the_first_node_of_a_slurm_list(nodes, first):
    placement = detect_placement({**SLURM, "SLURM_STEP_NODELIST": nodes})
    assert placement is not None
    assert placement.coordinator.partition(":")[0] == first


def test_several_processes_on_a_slurm_node_take_a_device_each():
    many = {**SLURM, "SLURM_STEP_NUM_TASKS": "20", "SLURM_LOCALID": "3"}
    placement = detect_placement(many)
    assert placement is not None
    assert placement.local_id == 3


def test_a_command_beside_srun_or_mpirun_is_alone():
    batch_script = {key: value for key, value in SLURM.items() if "STEP" not in key}
    assert detect_placement(batch_script | {"SLURM_NTASKS": "5"}) is None
    assert detect_placement({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert detect_placement({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) is None
    assert detect_placement({}) is None


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        (SLURM, "SLURM_PROCID"),
        (SLURM, "SLURM_STEP_NODELIST"),
        (JOBSET, "JAX_NUM_PROCESSES"),
        (JOBSET, "REPLICATED_JOB_NAME"),
        (BY_HAND, "JAX_COORDINATOR_ADDRESS"),
        (OPEN_MPI, "OMPI_MCA_orte_hnp_uri"),
    ],
)
def test_what_is_missing_is_named(environment, name):
    rest = {key: value for key, value in environment.items() if key != name}
    with pytest.raises(ConfigError, match=name):
        detect_placement(rest)


def test_flags_win_over_the_launcher():
    placement = place(HostsConfig(coordinator="head:99", host_id=4), SLURM)
    assert placement is not None
    assert (placement.coordinator, placement.num_hosts, placement.host_id) == ("head:99", 5, 4)
    assert place(HostsConfig(num_hosts=1), {}) is None
    assert place(HostsConfig(), {}) is None


def test_all_three_flags_need_no_launcher_that_is_understood():
    rest = {key: value for key, value in OPEN_MPI.items() if key != "OMPI_MCA_orte_hnp_uri"}
    placement = place(HostsConfig(coordinator="head:99", num_hosts=2, host_id=1), rest)
    assert placement is not None
    assert (placement.coordinator, placement.num_hosts, placement.host_id) == ("head:99", 2, 1)


def test_half_an_answer_is_refused():
    with pytest.raises(ConfigError, match="give all three"):
        place(HostsConfig(num_hosts=2), {})
    with pytest.raises(ConfigError, match="numbers go from 0 to 1"):
        place(HostsConfig(coordinator="a:1", num_hosts=2, host_id=2), {})
    with pytest.raises(ConfigError, match="HOST:PORT"):
        HostsConfig(coordinator="a")
