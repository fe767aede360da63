"""Position variants: what they add or turn, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.errors import ConfigError
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.layers.positions import Learned, NoPosition, Rotary, Sinusoidal, rotate
from jaxgpt.model.layers.rope_scaling import LinearScaling
from jaxgpt.runtime.target import CompileTarget, compiling_for
from tests.model import tiny_model
from tests.model.tiny_model import PLAIN


def at(*positions):
    return jnp.asarray([positions], jnp.int32)


def test_rotation_is_a_complex_product_with_pairs_half_a_head_apart():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 3, 2, 6))
    positions = np.array([0, 5, 17])
    frequencies = 100.0 ** (-np.arange(3) * 2 / 6)
    turned = (x[..., :3] + 1j * x[..., 3:]) * np.exp(
        1j * positions[None, :, None, None] * frequencies
    )
    rotation = Rotary(max_wavelength=100.0).rotation(at(*positions), 6)
    found = rotate(jnp.asarray(x, jnp.float32), rotation)
    np.testing.assert_allclose(found[..., :3], turned.real, atol=1e-5)
    np.testing.assert_allclose(found[..., 3:], turned.imag, atol=1e-5)


def test_products_of_rotated_heads_depend_on_distance_only():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((1, 1, 1, 16)), jnp.float32) for _ in range(2))
    rotary = Rotary()

    def product(query_position, key_position):
        return float(
            jnp.sum(
                rotate(q, rotary.rotation(at(query_position), 16))
                * rotate(k, rotary.rotation(at(key_position), 16))
            )
        )

    assert product(107, 100) == pytest.approx(product(7, 0), abs=1e-4)
    assert abs(product(8, 0) - product(7, 0)) > 1e-3


def test_linear_scaling_is_interpolation():
    plain, scaled = Rotary(), Rotary(scaling=LinearScaling(factor=4.0))
    np.testing.assert_allclose(
        scaled.rotation(at(4, 12), 8).sin_BTR, plain.rotation(at(1, 3), 8).sin_BTR, atol=1e-6
    )


def test_only_a_cpu_takes_its_angles_from_a_loop():
    found = {}
    for platform in ("cpu", "gpu"):
        with compiling_for(CompileTarget(platform=platform)):
            program = str(jax.make_jaxpr(lambda at_BT: Rotary().rotation(at_BT, 8))(at(1, 3)))
            found[platform] = Rotary().rotation(at(1, 3), 8)
        assert ("cond[" in program) == (platform == "cpu")
    np.testing.assert_allclose(found["cpu"].cos_BTR, found["gpu"].cos_BTR, atol=1e-6)
    np.testing.assert_allclose(found["cpu"].sin_BTR, found["gpu"].sin_BTR, atol=1e-6)


def test_sinusoids_are_those_of_the_paper():
    x = jnp.zeros((1, 2, 6))
    layer = Sinusoidal(max_wavelength=100.0, amplitude=2.0).build(PLAIN.settings, "position")
    found = layer.apply({}, x, at(0, 7))
    wavelengths = 100.0 ** (np.arange(3) / 2)
    expected = 2 * np.concatenate([np.sin(7 / wavelengths), np.cos(7 / wavelengths)])
    np.testing.assert_allclose(found[0, 0], [0, 0, 0, 2, 2, 2], atol=1e-6)
    np.testing.assert_allclose(found[0, 1], expected, atol=1e-5)


def test_an_odd_width_has_sinusoids_too():
    layer = Sinusoidal().build(PLAIN.settings, "position")
    assert layer.apply({}, jnp.zeros((1, 2, 5)), at(0, 1)).shape == (1, 2, 5)


def test_learned_positions_are_rows_of_the_table():
    config = replace(PLAIN, position=Learned(max_length=4))
    _, params = tiny_model.init(config)
    table = params["position"]["embedding"]["table"]
    assert table.shape == (4, 32)
    layer = config.position.build(config.settings, "position")
    found = layer.apply({"params": params["position"]}, jnp.zeros((1, 2, 32)), at(3, 1))
    np.testing.assert_array_equal(found[0], table[jnp.asarray([3, 1])])


def test_a_sequence_longer_than_the_table_is_refused_while_tracing():
    config = replace(PLAIN, position=Learned(max_length=4))
    model = config.build(10)
    with pytest.raises(ConfigError, match=r"5 tokens needs more than the 4 learned positions"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 5), jnp.int32))


def test_positions_given_replace_the_count_from_zero():
    for position in (Rotary(), Learned(max_length=9), Sinusoidal()):
        model, params = tiny_model.init(replace(PLAIN, position=position))
        tokens = tiny_model.random_tokens((1, 4))
        apply = jax.jit(model.apply)
        default, _ = apply({"params": params}, tokens)
        same, _ = apply({"params": params}, tokens, None, at(0, 1, 2, 3))
        other, _ = apply({"params": params}, tokens, None, at(0, 1, 2, 0))
        np.testing.assert_allclose(default, same, atol=1e-5)
        assert np.max(np.abs(other[0, 3] - default[0, 3])) > 1e-3


def test_no_position_ignores_positions():
    model, params = tiny_model.init(replace(PLAIN, position=NoPosition()))
    tokens = tiny_model.random_tokens((1, 4))
    apply = jax.jit(model.apply)
    found = [
        apply({"params": params}, tokens, None, at(*p))[0] for p in [(0, 1, 2, 3), (9, 2, 4, 4)]
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Learned(max_length=0), "max_length must be at least 1, not 0"),
        (lambda: Rotary(max_wavelength=1.0), r"max_wavelength must be above 1, not 1\.0"),
        (lambda: Sinusoidal(max_wavelength=0.5), r"max_wavelength must be above 1, not 0\.5"),
        (lambda: Sinusoidal(amplitude=0.0), r"amplitude must be positive, not 0\.0"),
        (
            lambda: replace(PLAIN, attention=GroupedQueryAttention(num_heads=4, head_dim=5)),
            "rotary positions need an even head_dim, not 5",
        ),
    ],
)
def test_impossible_positions_are_refused_in_one_line(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
