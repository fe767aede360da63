"""What a measure gives, for programs and for people."""

import json

from jaxgpt.benchmarks.measurement import Baseline, Measurement, measure_interleaved

MEASUREMENT = Measurement(
    measure="tokenize",
    value=20.0,
    unit="MB/s",
    floor=1000.0,
    floor_is="copying",
    spread=(18.0, 21.0),
    settings={"kind": "bpe"},
    versions={"python": "3"},
    against=Baseline(name="tiktoken", value=10.0, ratio=2.0),
)


def test_json_has_what_scripts_rely_on() -> None:
    found = json.loads(json.dumps(MEASUREMENT.to_json()))
    assert found["floor_ratio"] == 0.02
    assert found["against"] == {"name": "tiktoken", "value": 10.0, "ratio": 2.0}
    assert found["spread"] == [18.0, 21.0]
    assert {"measure", "value", "unit", "floor", "versions"} <= found.keys()


def test_the_table_says_the_same() -> None:
    table = MEASUREMENT.to_text()
    for part in ("20.00 MB/s", "2.000%", "2.00x", "bpe", "18.00, 21.00"):
        assert part in table


def test_sides_take_turns_and_medians_are_taken() -> None:
    order = []
    values = {"one": iter([1.0, 9.0, 2.0]), "other": iter([5.0, 4.0, 30.0])}

    def side(name: str) -> float:
        order.append(name)
        return next(values[name])

    found = measure_interleaved({name: lambda name=name: side(name) for name in values}, 3)
    assert order == ["one", "other"] * 3
    assert found == {"one": (2.0, (1.0, 9.0)), "other": (5.0, (4.0, 30.0))}
