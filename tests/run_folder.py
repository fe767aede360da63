"""A run folder without the training: random parameters, saved as steps of a tiny config."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.integrity import hash_files, list_files, write_manifest
from jaxgpt.checkpoints.lineage import make_lineage
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.checkpoints.verification import RUN_FILES
from jaxgpt.config import load_config, replace, to_dict
from jaxgpt.data.shards import TokenDataset
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.config import CONFIG_VERSION, TrainConfig
from jaxgpt.runtime.settings import RuntimeConfig
from jaxgpt.storage.durable import write_json
from jaxgpt.training.state import abstract_parameters
from tests.tiny import write_config


def make_run(folder: Path, dataset: Path, losses: dict[int, float], **model: Any) -> TrainConfig:
    """Write a run on `dataset` with a checkpoint, of other parameters each, for each step.

    Args:
        folder: where; its parent exists.
        dataset: a dataset folder.
        losses: validation loss by step.
        model: fields of the model's config to change.
    """
    config = load_config(
        write_config(folder.parent / f"{folder.name}.py", [(dataset, 1)]), TrainConfig
    )
    # No compile cache: tests share one process and its settings.
    config = replace(
        config,
        model=replace(config.model, **model),
        runtime=RuntimeConfig(compile_cache=""),
        checkpoint=CheckpointConfig(keep_latest=max(1, len(losses))),
    )
    opened = TokenDataset.open(dataset)
    tokenizer = opened.load_tokenizer()
    tokenizer.save(folder / "tokenizer")
    write_json(folder / "config.json", {"version": CONFIG_VERSION, "config": to_dict(config)})
    lineage = make_lineage(
        config=to_dict(config),
        data={"datasets": [{"fingerprint": opened.fingerprint, "share": 1.0}]},
        tokenizer=tokenizer.fingerprint,
        devices={},
    )
    write_json(folder / "lineage.json", lineage)
    write_manifest(folder, hash_files(folder, list_files(folder, RUN_FILES)))
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
    mesh = single_device_mesh()
    abstract, _ = abstract_parameters(
        config.model.build(tokenizer.vocab_size), config.sharding, mesh
    )
    for step, loss in losses.items():
        params = _random_params(abstract, step)
        checkpoints.save(step, params, {}, {"step": step, "eval_loss": loss})
    checkpoints.close()
    return config


def _random_params(abstract: Any, seed: int) -> Any:
    """Drawn by NumPy: nothing to compile. Larger than initial weights are, so that scores vary."""
    rng = np.random.default_rng(seed)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.device_put(rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(draw, abstract)
