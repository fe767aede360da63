"""Steps of fine-tuning on one device, and on eight that divide rows and weights."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt import finetune
from jaxgpt.batch import Batch
from jaxgpt.model.layers.token_changes import TOKEN_CHANGES
from jaxgpt.parallel.mesh import MeshConfig, make_mesh, single_device_mesh
from jaxgpt.parallel.sharding import on_mesh, to_devices
from jaxgpt.planning.planned_run import plan_tuning
from jaxgpt.runs.config import RunConfig
from jaxgpt.runs.setup import build_step
from jaxgpt.runs.sources import Sources
from jaxgpt.training.state import init_state
from tests.tuned_runs import JOBS, arguments, make_world

pytestmark = pytest.mark.slow
NUM_STEPS = 3
# The tokens of supervised examples are in test_finetune.py, adapters in test_frozen.py, and the
# gradients of all losses of preferences in finetuning/preference/test_objective.py.
MESH = MeshConfig(data=2, fsdp=2, tensor=2)
CASES = {
    **dict.fromkeys(("dpo", "dpo with adapter", "kto", "classification", "distillation"), MESH),
    "lora": MeshConfig(data=1, fsdp=2, context=2, tensor=2),
}
# The base has read documents only, so that their adapters train rows of tokens, too.
WITH_ROWS = ("dpo with adapter", "lora")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("meshes"))


def _shapes(batch: Batch) -> Any:
    return jax.tree.map(lambda part: (part.shape, part.dtype), batch)


def _train(config: RunConfig, sources: Sources, sizes: MeshConfig | None) -> tuple[Any, Any]:
    """Return the losses of steps, and the parameters after them."""
    mesh = single_device_mesh() if sizes is None else make_mesh(sizes)
    tokenizer, segments = sources.tokenizer, sources.batches.num_segments
    about = tokenizer.vocab_size, jnp.asarray(tokenizer.bytes_per_token), segments
    parts, losses = build_step(config, mesh, *about), []
    abstract = parts.plan.abstract
    with on_mesh(mesh, config.sharding):
        params = config.make_parameters(parts.model, abstract.trainable)
        frozen = config.read_frozen(abstract.frozen)
        state = init_state(params, parts.optimizer, parts.plan, config.seed, frozen)
        for step in range(NUM_STEPS):
            batch = sources.batches.pick(step, range(config.batch.global_batch_size))
            state, metrics = parts.step(state, to_devices(batch, mesh))
            losses.append(float(metrics.loss))
    return losses, jax.device_get(state.trainable)


@pytest.mark.parametrize(("name", "mesh"), CASES.items(), ids=CASES)
def test_eight_devices_train_what_one_does(
    name: str, mesh: MeshConfig, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(finetune, "train_run", lambda *all: opened.append((all[0], all[-1])))
    # With the usual eps AdamW makes whole steps of gradients that are nothing but rounding.
    more = ("--runtime.compile-cache", "", "--optimizer.eps", "1e-3")
    finetune.main(arguments(JOBS[name], world, tmp_path / "run", NUM_STEPS, *more))
    ((config, sources),) = opened
    planned = plan_tuning(config, sources).row
    sources = config.prepare_sources(sources, tmp_path, lambda: None)
    assert _shapes(planned) == _shapes(sources.batches.pick(0, [0]))
    losses, params = _train(config, sources, None)
    found = _train(config, sources, mesh)
    np.testing.assert_allclose(found[0], losses, rtol=1e-5)
    named = jax.tree.leaves_with_path(params)
    has_rows = any(path[-1].key == TOKEN_CHANGES for path, _ in named)
    assert has_rows == (name in WITH_ROWS)
    for (path, one), two in zip(named, jax.tree.leaves(found[1]), strict=True):
        assert np.linalg.norm(one - two) <= 1e-5 * np.linalg.norm(one), jax.tree_util.keystr(path)
