"""Hosts that differ are told apart before anything is computed: what, where, and both values."""

import time

import jax
import pytest

from jaxgpt.distributed import preflight as module
from jaxgpt.distributed.hosts import HostsConfig
from jaxgpt.errors import JaxgptError, MismatchError
from jaxgpt.parallel.mesh import MeshConfig, make_mesh

FACTS = {
    "versions": {"jax": "0.10.2", "optax": "0.2.8"},
    "config": {"batch": {"sequence_length": 16}, "data": [{"path": "a"}, {"path": "b"}]},
    "dataset": "1f3a",
}


def _as_one_of(monkeypatch, others, names=("node-a", "node-b", "node-c")):
    """Stand in for host 0; `others` are the facts of the rest."""
    monkeypatch.setattr(module, "host_names", lambda: list(names[: len(others) + 1]))
    answers = {
        "the preflight": lambda facts: [
            facts,
            *({name: module._digest(value) for name, value in o.items()} for o in others),
        ],
        "what differs": lambda values: [
            values,
            *({name: o.get(name) for name in values} for o in others),
        ],
    }
    monkeypatch.setattr(module, "gather", lambda topic, value: answers[topic](value))


def test_hosts_that_agree_pass(monkeypatch):
    _as_one_of(monkeypatch, [FACTS, FACTS])
    module.check_equal_on_hosts(FACTS)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"dataset": "77"}, "dataset: '77' there, '1f3a' at host 0"),
        (
            {"versions": {"jax": "0.11.2", "optax": "0.2.8"}},
            "versions.jax: '0.11.2' there, '0.10.2' at host 0",
        ),
        (
            {"config": {**FACTS["config"], "batch": {"sequence_length": 32}}},
            "config.batch.sequence_length: 32 there, 16 at host 0",
        ),
        (
            {"config": {**FACTS["config"], "data": [{"path": "a"}, {"path": "c"}]}},
            "config.data[1].path: 'c' there, 'b' at host 0",
        ),
    ],
)
def test_what_differs_is_named_with_both_values(monkeypatch, change, expected):
    _as_one_of(monkeypatch, [FACTS, {**FACTS, **change}])
    with pytest.raises(MismatchError) as raised:
        module.check_equal_on_hosts(FACTS)
    assert "host 2 (node-c) differs from host 0 (node-a)" in str(raised.value)
    assert expected in str(raised.value)
    assert raised.value.exit_code == 79


@pytest.mark.parametrize(("skew", "word"), [(3600.0, "ahead of"), (-60.0, "behind")])
def test_a_clock_that_is_off(monkeypatch, skew, word):
    monkeypatch.setattr(module, "host_names", lambda: ["node-a", "node-b"])
    monkeypatch.setattr(module, "gather", lambda topic, now: [now, now + skew if now else now])
    with pytest.raises(MismatchError, match=rf"host 1 \(node-b\) is {abs(skew):.1f} s {word}"):
        module.check_clocks()
    monkeypatch.setattr(module, "settings", lambda: HostsConfig(max_clock_skew_seconds=7200))
    module.check_clocks()


def test_a_host_with_a_broken_device(monkeypatch):
    monkeypatch.setattr(module, "host_names", lambda: ["node-a", "node-b"])
    monkeypatch.setattr(module, "gather", lambda topic, own: [own, "7 x cpu"])
    with pytest.raises(MismatchError, match=r"host 1 \(node-b\) has 7 x cpu, host 0 .* 8 x cpu"):
        module.check_devices()


def test_the_collective_adds_up_and_takes_some_time():
    bandwidth = module.measure_collective(make_mesh(MeshConfig()))
    assert 1e6 < bandwidth < 1e13


def test_devices_that_add_up_wrong_are_refused(monkeypatch):
    monkeypatch.setattr(module.jnp, "sum", lambda parts, axis: parts[0] + 1)
    with pytest.raises(JaxgptError, match="a sum over 8 devices is wrong"):
        module.measure_collective(make_mesh(MeshConfig()))


def test_a_collective_that_hangs_ends_all_hosts(monkeypatch):
    ends: list[tuple[int, str]] = []
    monkeypatch.setattr(module, "_COLLECTIVE_SECONDS", 0.2)
    monkeypatch.setattr(module, "abandon", lambda *end: ends.append(end))
    with module._limited("the devices do not reach each other"):
        time.sleep(1.0)
    assert ends == [(75, "the devices do not reach each other")]


def test_one_process_has_nothing_to_compare():
    assert module.preflight(FACTS) == {}
    assert jax.process_count() == 1
