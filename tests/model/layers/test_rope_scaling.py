"""Scaled frequencies against the published descriptions, plane by plane."""

import math

import numpy as np
import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.model.layers.rope_scaling import (
    LinearScaling,
    Llama3,
    NoScaling,
    Yarn,
    plain_frequencies,
)

HEAD_DIM, BASE = 64, 500_000.0
PLAIN = plain_frequencies(HEAD_DIM, BASE)


def test_no_scaling_is_a_geometric_series():
    frequencies, amplitude = NoScaling().frequencies(8, 16.0)
    np.testing.assert_allclose(frequencies, [1, 0.5, 0.25, 0.125])
    assert amplitude == 1.0


def test_linear_divides_all():
    frequencies, amplitude = LinearScaling(factor=4.0).frequencies(HEAD_DIM, BASE)
    np.testing.assert_allclose(frequencies, PLAIN / 4, rtol=1e-6)
    assert amplitude == 1.0


def test_llama3_keeps_short_waves_and_interpolates_long_ones():
    scaling = Llama3(
        factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_length=8192
    )
    frequencies, amplitude = scaling.frequencies(HEAD_DIM, BASE)
    assert amplitude == 1.0
    kinds = set()
    for plain, found in zip(PLAIN, frequencies, strict=True):
        wavelength = 2 * math.pi / plain
        if wavelength < 8192 / 4:
            expected, kind = plain, "kept"
        elif wavelength > 8192:
            expected, kind = plain / 8, "interpolated"
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            expected, kind = (1 - smooth) * plain / 8 + smooth * plain, "between"
        kinds.add(kind)
        assert found == pytest.approx(expected, rel=1e-6)
    assert kinds == {"kept", "interpolated", "between"}


def test_yarn_ramps_between_planes_and_sharpens_scores():
    frequencies, amplitude = Yarn(factor=4.0, original_length=4096).frequencies(HEAD_DIM, BASE)
    assert amplitude == pytest.approx(0.1 * math.log(4) + 1)
    ratio = frequencies / PLAIN
    turns = 4096 * PLAIN / (2 * math.pi)
    np.testing.assert_allclose(ratio[turns > 64], 1.0, rtol=1e-6)
    np.testing.assert_allclose(ratio[turns < 0.5], 0.25, rtol=1e-6)
    assert np.all(np.diff(ratio) <= 1e-6)
    assert np.any((ratio > 0.3) & (ratio < 0.95))
    assert Yarn(attention_factor=1.5).frequencies(HEAD_DIM, BASE)[1] == 1.5


@pytest.mark.parametrize(
    "scaling", [LinearScaling(factor=1.0), Llama3(factor=1.0), Yarn(factor=1.0)]
)
def test_a_factor_of_one_changes_nothing(scaling):
    frequencies, amplitude = scaling.frequencies(HEAD_DIM, BASE)
    np.testing.assert_allclose(frequencies, PLAIN, rtol=1e-6)
    assert amplitude == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearScaling(factor=0.5), r"factor must be at least 1, not 0\.5"),
        (lambda: Llama3(original_length=0), "original_length must be at least 1, not 0"),
        (
            lambda: Llama3(low_frequency_factor=4.0, high_frequency_factor=1.0),
            r"low_frequency_factor must be positive and below high_frequency_factor, not 4\.0",
        ),
        (lambda: Yarn(slow_turns=40.0), "slow_turns must be positive and below fast_turns"),
    ],
)
def test_impossible_scaling_is_refused_in_one_line(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
