"""What was saved on eight devices goes on, the same, on any other mesh, and back."""

from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.batch import Batch
from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.data.packing import make_rows
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh, to_devices
from jaxgpt.training.loss import LossConfig, language_model_loss
from jaxgpt.training.optimizer import AdamW
from jaxgpt.training.recovery import NoSkipping
from jaxgpt.training.state import TrainState, init_parameters, init_state, plan_state
from jaxgpt.training.step import compile_step, make_train_step

VOCAB, SAVED_AT, MORE = 64, 3, 6
MODEL = GptConfig(
    num_layers=2,
    d_model=16,
    attention=GroupedQueryAttention(num_heads=4, num_kv_heads=2, head_dim=8),
    feed_forward=SwiGlu(hidden=32),
    layers=Scanned(),
)
SAVED_ON = MeshConfig(data=2, fsdp=2, tensor=2)


def batch_of(step: int) -> Batch:
    rng = np.random.default_rng(step)
    tokens = rng.integers(3, VOCAB, (8, 17))
    return make_rows(tokens, rng.random(tokens.shape) < 0.1)


class Training:
    """A tiny training on some of the devices."""

    def __init__(self, config: MeshConfig, num_devices: int) -> None:
        self.mesh, self.rules = make_mesh(config, jax.devices()[:num_devices]), ShardingRules()
        self.model = MODEL.build(VOCAB)
        self.plan, self.optimizer = plan_state(
            self.model, lambda axes: AdamW().build(lambda step: 1e-3, axes), self.rules, self.mesh
        )
        loss = language_model_loss(self.model, jnp.ones(VOCAB, jnp.int32), LossConfig())
        step = make_train_step(loss, self.optimizer, 1)
        self.step = compile_step(step, self.plan.abstract, self.mesh)

    def begin(self):
        with on_mesh(self.mesh, self.rules):
            params = init_parameters(self.model, self.rules, self.mesh, seed=0)
            return init_state(params, self.optimizer, self.plan, seed=0)

    def restore(self, checkpoints: Checkpoints, step: int):
        abstract = self.plan.abstract
        rest = {"step": abstract.step, "opt_state": abstract.opt_state, "rng": abstract.rng}
        with on_mesh(self.mesh, self.rules):
            params, rest, _ = checkpoints.restore(step, abstract.trainable, rest)
        return TrainState(trainable=params, frozen={}, memory=NoSkipping().init(), **rest)

    def train(self, state, start: int, num_steps: int):
        losses = []
        with on_mesh(self.mesh, self.rules):
            for step in range(start, start + num_steps):
                state, metrics = self.step(state, to_devices(batch_of(step), self.mesh))
                losses.append(float(metrics.loss))
        return losses, state


def save(checkpoints: Checkpoints, step: int, state) -> None:
    rest = {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
    checkpoints.save(step, state.trainable, rest, {})
    checkpoints.wait()


def assert_close(state, expected) -> None:
    for ours, theirs in zip(
        jax.tree.leaves(state.trainable), jax.tree.leaves(expected.trainable), strict=True
    ):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints with a step saved on eight devices, and what these do next."""
    training = Training(SAVED_ON, 8)
    checkpoints = Checkpoints(tmp_path_factory.mktemp("elastic"), CheckpointConfig(keep_latest=9))
    with closing(checkpoints):
        _, state = training.train(training.begin(), 0, SAVED_AT)
        save(checkpoints, SAVED_AT, state)
        yield checkpoints, training, training.train(state, SAVED_AT, MORE)


MESHES = [
    pytest.param(MeshConfig(fsdp=2, tensor=2), 4, id="4", marks=pytest.mark.slow),
    pytest.param(MeshConfig(), 1, id="1", marks=pytest.mark.slow),
    pytest.param(MeshConfig(data=1, tensor=2), 2, id="2", marks=pytest.mark.slow),
    pytest.param(MeshConfig(data=1, fsdp=8), 8, id="8", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("config", "num_devices"), MESHES)
def test_the_next_steps_are_the_same_on_another_mesh_and_back(
    saved, config: MeshConfig, num_devices: int
) -> None:
    checkpoints, original, (losses, expected) = saved
    other = Training(config, num_devices)
    half = MORE // 2
    first, state = other.train(other.restore(checkpoints, SAVED_AT), SAVED_AT, half)
    name = 1000 * num_devices + SAVED_AT + half
    save(checkpoints, name, state)
    second, state = other.train(state, SAVED_AT + half, MORE - half)
    np.testing.assert_allclose(first + second, losses, rtol=1e-6)
    assert_close(state, expected)
    back = original.restore(checkpoints, name)
    _, state = original.train(back, SAVED_AT + half, MORE - half)
    assert_close(state, expected)
    assert int(state.step) == SAVED_AT + MORE
