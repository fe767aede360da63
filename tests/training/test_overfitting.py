"""A held-out loss that rises is told from one that wavers or is of other text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.training.overfitting import find_rise, warn_of_text


def evaluations(losses: list[float], tokens: int = 500) -> list[dict[str, float]]:
    return [
        {"step": 10 * number, "loss": loss, "tokens": tokens}
        for number, loss in enumerate(losses, 1)
    ]


@given(st.lists(st.floats(0.5, 9), min_size=1, max_size=9))
def test_a_rise_is_from_the_lowest_loss_to_the_newest(losses: list[float]) -> None:
    rise = find_rise(evaluations(losses))
    assert (rise is not None) == (losses[-1] > 1.01 * min(losses))
    if rise:
        assert rise.best_loss == min(losses)
        assert losses[rise.best_step // 10 - 1] == min(losses)
        assert (rise.step, rise.loss) == (10 * len(losses), losses[-1])
        assert f"--step best of eval and generate takes step {rise.best_step}" in rise.describe()


def test_only_evaluations_over_the_same_text_are_compared() -> None:
    other = evaluations([1.0, 1.1], tokens=70)
    assert find_rise([*other, *evaluations([3.0, 2.9])]) is None
    assert find_rise([*other, *evaluations([3.0, 3.9])]) is not None
    assert find_rise([{"step": 1, "loss": None}, {"step": 2, "loss": 2.0}]) is None
    assert find_rise([]) is None


@pytest.mark.parametrize(
    ("epochs", "tokens", "said"),
    [(0.5, 75_000, []), (64, 75_000, ["64 times"]), (64, 1_098, ["64 times", "1,098 tokens"])],
)
def test_a_run_says_when_its_text_is_little(epochs: float, tokens: int, said: list[str]) -> None:
    warnings = warn_of_text(epochs, tokens)
    assert len(warnings) == len(said)
    assert all(part in warning for part, warning in zip(said, warnings, strict=True))
