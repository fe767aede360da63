"""The files of docs/launch, as far as a machine without Slurm, Kubernetes and Docker can tell."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from jaxgpt import errors
from jaxgpt.distributed.launchers import detect_placement

REPOSITORY = Path(__file__).resolve().parent.parent
LAUNCH = REPOSITORY / "docs" / "launch"


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((LAUNCH / "jobset.yaml").read_text())


@pytest.fixture(scope="module")
def job(jobset):
    (job,) = jobset["spec"]["replicatedJobs"]
    return job


def _container(job):
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    return container


def test_the_slurm_script_is_a_shell_script():
    assert subprocess.run(["bash", "-n", LAUNCH / "slurm.sh"]).returncode == 0
    assert os.access(LAUNCH / "slurm.sh", os.X_OK)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", LAUNCH / "slurm.sh"], check=True)


def test_the_slurm_script_asks_for_one_process_a_node_and_a_warning():
    options = re.findall(r"^#SBATCH (--\S+)", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE)
    assert {"--ntasks-per-node=1", "--requeue", "--signal=B:TERM@600"} <= set(options)


def _run_slurm_script(tmp_path, step: str, term: bool) -> tuple[int, str]:
    """Run it with a stand-in for `srun` that does `step`; its exit code and what was requeued."""
    for name, body in {"srun": step, "scontrol": f'echo "$@" >> {tmp_path}/requeued'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    process = subprocess.Popen(
        [LAUNCH / "slurm.sh", "--config", "x.py"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"},
        stdout=subprocess.DEVNULL,
    )
    if term:
        deadline = time.monotonic() + 30
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
    code = process.wait(30)
    requeued = tmp_path / "requeued"
    return code, requeued.read_text() if requeued.exists() else ""


@pytest.mark.parametrize(
    ("step", "code", "requeued"),
    [
        (f'echo "$@" > {"arguments"}; exit 0', 0, ""),
        ("exit 75", 75, "requeue 42\n"),
        ("exit 137", 137, "requeue 42\n"),
        ("exit 79", 79, ""),
    ],
)
def test_an_unfinished_job_is_requeued(tmp_path, step, code, requeued):
    assert _run_slurm_script(tmp_path, step, term=False) == (code, requeued)
    if code == 0:
        assert "-m jaxgpt.train --config x.py" in (tmp_path / "arguments").read_text()


def test_the_warning_reaches_the_processes_and_their_exit_code_is_kept(tmp_path):
    step = "trap 'sleep 0.3; exit 75' TERM; touch started; for i in {1..300}; do sleep 0.1; done"
    assert _run_slurm_script(tmp_path, step, term=True) == (75, "requeue 42\n")


def test_the_jobset_says_everywhere_how_many_hosts_there_are(jobset, job):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec = job["template"]["spec"]
    assert job["replicas"] == 1
    assert spec["completionMode"] == "Indexed"
    variables = {entry["name"]: entry.get("value") for entry in _container(job)["env"]}
    assert spec["parallelism"] == spec["completions"] == int(variables["JAX_NUM_PROCESSES"])


def test_a_pod_of_the_jobset_knows_who_it_is(jobset, job):
    name = jobset["metadata"]["name"]
    from_annotations = {
        "metadata.annotations['jobset.sigs.k8s.io/jobset-name']": name,
        "metadata.annotations['jobset.sigs.k8s.io/replicatedjob-name']": job["name"],
    }
    variables = {
        entry["name"]: entry.get("value")
        or from_annotations[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        for entry in _container(job)["env"]
    }
    # Kubernetes itself sets the index of the pod.
    placement = detect_placement({**variables, "JOB_COMPLETION_INDEX": "1"})
    assert placement is not None
    assert (placement.num_hosts, placement.host_id) == (2, 1)
    host, _, port = placement.coordinator.partition(":")
    assert host == f"{name}-{job['name']}-0-0.{name}"
    ports = [entry["containerPort"] for entry in _container(job)["ports"]]
    assert ports == [int(port), int(port) + 1]


def test_the_jobset_gives_up_on_what_does_not_get_better(jobset, job):
    (rule,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.JaxgptError)}
    assert set(rule["onExitCodes"]["values"]) == codes - {1, 75, 130}
    assert rule["onExitCodes"]["containerName"] == _container(job)["name"]
    (failing,) = jobset["spec"]["failurePolicy"]["rules"]
    assert (failing["action"], failing["onJobFailureReasons"]) == (
        "FailJobSet",
        ["PodFailurePolicy"],
    )


def test_pods_run_as_a_user_with_time_to_save_and_all_volumes(job):
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["terminationGracePeriodSeconds"] >= 300
    mounted = {mount["name"] for mount in _container(job)["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def _instructions() -> list[tuple[str, str]]:
    text = (LAUNCH / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in joined]  # type: ignore[misc]


def test_the_dockerfile_copies_what_exists_and_installs_an_extra_that_exists():
    instructions = _instructions()
    assert instructions[0][0] == "FROM"
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "VOLUME", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions} <= known
    allowed = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    for name, rest in instructions:
        if name == "COPY":
            for source in shlex.split(rest)[:-1]:
                assert (REPOSITORY / source).exists()
                assert f"!{source}" in allowed
    installed = re.findall(r"-e '\.\[(\w+)\]'", " ".join(rest for _, rest in instructions))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert installed == ["cuda12"]
    assert "cuda12" in project["optional-dependencies"]


def test_the_container_is_no_root_and_process_1_passes_signals_on():
    instructions = _instructions()
    names = [name for name, _ in instructions]
    last = dict(instructions)
    assert last["USER"] not in ("root", "0")
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert json.loads(last["ENTRYPOINT"]) == ["tini", "-g", "--", "jaxgpt"]
    verb = json.loads(last["CMD"])[0]
    assert (REPOSITORY / "jaxgpt" / f"{verb}.py").exists()
