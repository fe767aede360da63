"""A run folder with the adapter of a fine-tuning run merged into its base, which it then needs not.

config.json, lineage.json, tokenizer/     of the run, without the adapter
reference.npz                             of preferences: log-probabilities under the base
checkpoints/STEP                          the merged parameters, and no state to train on with
"""

from contextlib import closing
from pathlib import Path

from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.config import replace, to_dict
from jaxgpt.errors import UsageError
from jaxgpt.model.layers.adapters import NO_ADAPTER
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.folder import write_description
from jaxgpt.runs.run import Run
from jaxgpt.runs.tuning.based_config import BasedRunConfig
from jaxgpt.storage.new_folder import new_folder


def merge_adapter(run: Run, step: int, output: Path) -> None:
    """Write the merged model of a step to a new run folder.

    Raises:
        UsageError: the run has no adapter, or `output` is not empty.
        NoCheckpointError, MismatchError: the base is gone, or not what it was.
    """
    if not isinstance(run.config, BasedRunConfig) or not run.config.adapter.has_parameters:
        raise UsageError(
            f"{run.directory} has no adapter: its checkpoints are whole models already"
        )
    mesh = single_device_mesh()
    params = run.restore_params(step, mesh)
    metadata = run.checkpoints.read_metadata(step)
    metadata |= {"merged": {"run": str(run.directory), "step": step}}
    config = replace(run.config, adapter=NO_ADAPTER)
    with new_folder(output) as folder:
        # Before its description, which has the hashes of all files.
        run.config.keep_for_evaluation(folder, run.tokenizer, mesh)
        lineage = run.lineage | {"config": to_dict(config)}
        write_description(folder, config, run.tokenizer, lineage)
        with closing(Checkpoints(folder / "checkpoints", config.checkpoint)) as checkpoints:
            checkpoints.save(step, params, {}, metadata)
