"""A start knows the run before it: tokens read, and since when its objective holds."""

from jaxgpt.checkpoints.lineage import objective
from jaxgpt.runs.setup import Lineages
from jaxgpt.runs.state import ResumePoint, _history


def _lineage(global_batch_size: int = 8, z_loss: float = 0.0, data: str = "aaaa") -> dict:
    return {
        "config": {
            "batch": {"global_batch_size": global_batch_size, "sequence_length": 16},
            "loss": {"type": "jaxgpt.training.loss:LossConfig", "z_loss": z_loss},
            "model": {"type": "jaxgpt.model.gpt:GptConfig", "num_layers": 2},
        },
        "data": {
            "datasets": [{"fingerprint": data, "share": 1}],
            "order": {"seed": 0, "global_batch_size": global_batch_size, "sequence_length": 16},
        },
    }


def _start(metadata: dict, then: dict, now: dict, step: int = 100) -> ResumePoint:
    lineages = Lineages(then, now)
    return ResumePoint(state=None, step=step, **_history(metadata, step, lineages, objective(now)))


def test_of_a_step_that_an_older_version_saved_the_lineage_tells_the_tokens() -> None:
    start = _start({}, _lineage(), _lineage(16))
    assert start.tokens == 100 * 8 * 16
    assert start.tokens_offset(16 * 16) + 101 * 16 * 16 == 100 * 8 * 16 + 16 * 16


def test_tokens_are_exact_where_no_float_and_no_32_bits_are() -> None:
    many = 2**53 + 1
    start = _start({"tokens": many, "objective": objective(_lineage())}, _lineage(), _lineage(16))
    assert start.tokens_offset(256) + 101 * 256 == many + 256


def test_an_unchanged_objective_is_one_since_it_began() -> None:
    metadata = {"objective": objective(_lineage()), "changed_at": 40, "changes": ["a"], "tokens": 9}
    start = _start(metadata, _lineage(), _lineage())
    assert (start.changed_at, start.changes, start.tokens) == (40, ("a",), 9)
    assert _start({}, _lineage(), _lineage()).changes == ()


def test_text_batch_and_loss_are_the_objective_and_its_change_is_named() -> None:
    for now, name in (
        (_lineage(16), "order.global_batch_size"),
        (_lineage(z_loss=1e-4), "loss.z_loss"),
        (_lineage(data="bbbb"), "datasets[0].fingerprint"),
    ):
        for metadata in ({}, {"objective": objective(_lineage())}):
            start = _start(metadata, _lineage(), now)
            assert start.changed_at == 100
            assert [line.partition(":")[0] for line in start.changes] == [name]


def test_what_changes_speed_or_order_alone_is_no_other_objective() -> None:
    now = _lineage()
    now["data"]["order"]["seed"] = 1
    now["config"]["loss"]["logits"] = {"type": "jaxgpt.training.loss_head:WholeLogits"}
    now["config"]["model"]["compute_dtype"] = "bfloat16"
    assert _start({}, _lineage(), now).changes == ()


def test_where_a_class_lay_when_a_step_was_saved_is_no_other_objective() -> None:
    then = objective(_lineage())
    then["loss"]["type"] = "jaxgpt.training.loss:LossConfig"
    now = _lineage()
    now["config"]["loss"]["type"] = "jaxgpt.training:LossConfig"
    assert objective(now)["loss"]["type"] == "jaxgpt.training:LossConfig"
    assert _start({"objective": then}, _lineage(), now).changes == ()


def test_dropout_is_part_of_the_objective() -> None:
    now = _lineage()
    now["config"]["model"]["dropout"] = {"type": "jaxgpt.model.layers:Dropout", "residual": 0.1}
    assert len(_start({}, _lineage(), now).changes) == 1
