"""A run folder of a fine-tuned adapter without the training: random numbers, saved as one step."""

from pathlib import Path

import jax
import numpy as np

from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.config import load_config, replace, to_dict
from jaxgpt.model.layers.adapters import LowRank
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.folder import write_description
from jaxgpt.runs.run import Run, open_run
from jaxgpt.runs.tuning.adapter_params import own_parameters
from jaxgpt.runs.tuning.based_config import TuningConfig, complete
from jaxgpt.training.state import abstract_parameters
from tests.tiny import REPOSITORY

STEP = 4


def make_adapter_run(folder: Path, base: Run, adapter: LowRank, scale: float = 0.05) -> Run:
    """Write the run of an adapter of the latest step of a base, and open it."""
    recipe = load_config(REPOSITORY / "configs" / "lora.py", TuningConfig)
    config = complete(replace(recipe, adapter=adapter), str(base.directory), "latest")
    abstract, _ = abstract_parameters(base.build_model(), config.sharding, single_device_mesh())
    model = config.model.build(base.tokenizer.vocab_size, adapter)
    rng = np.random.default_rng(7)
    own = jax.tree.map(
        lambda leaf: jax.device_put(scale * rng.standard_normal(leaf.shape, np.float32)),
        own_parameters(model, config.sharding, abstract),
    )
    folder.mkdir()
    lineage = base.lineage | {"config": to_dict(config)}
    write_description(folder, config, base.tokenizer, lineage)
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
    checkpoints.save(STEP, own, {}, {"step": STEP})
    checkpoints.close()
    return open_run(folder)
