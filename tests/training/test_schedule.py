"""Learning-rate schedules: where they start, peak and end, for any number of steps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.errors import ConfigError
from jaxgpt.training.schedule import Constant, Cosine, LinearDecay, Schedule, WarmupStableDecay

ALL = [Cosine, LinearDecay, Constant, WarmupStableDecay]


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=15, deadline=None)
@given(num_steps=st.integers(1, 400), warmup=st.sampled_from([0.0, 0.02, 0.3]))
def test_any_number_of_steps_gives_positive_rates_up_to_the_peak(
    kind: type[Schedule], num_steps: int, warmup: float
) -> None:
    schedule = kind(num_steps=num_steps, peak_learning_rate=0.01, warmup_share=warmup)
    rates = schedule.values()
    assert rates.shape == (num_steps,)
    assert np.all(rates > 0)
    assert np.all(rates <= 0.01 * (1 + 1e-6))
    warmup_steps = schedule.warmup_steps
    assert np.all(np.diff(rates[:warmup_steps]) > 0)
    assert np.all(np.diff(rates[warmup_steps:]) <= 1e-9)
    if num_steps > warmup_steps:
        assert rates[warmup_steps] == pytest.approx(0.01)


def test_the_end_is_the_final_share() -> None:
    for kind in (Cosine, LinearDecay, WarmupStableDecay):
        rates = kind(num_steps=1000, peak_learning_rate=1.0, final_share=0.1).values()
        assert rates[-1] == pytest.approx(0.1, abs=0.006)


def test_stable_part_of_wsd_is_flat() -> None:
    rates = WarmupStableDecay(
        num_steps=100, peak_learning_rate=1.0, warmup_share=0.1, decay_share=0.3
    ).values()
    assert np.all(rates[10:70] == 1.0)
    assert rates[71] < 1.0


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"decay_share=0\.99"):
        WarmupStableDecay(decay_share=0.99)
    with pytest.raises(ConfigError, match="num_steps=0"):
        Cosine(num_steps=0)
