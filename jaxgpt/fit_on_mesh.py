"""Whether a run fits on a mesh: what training refuses before it starts, and a plan refuses too."""

from jaxgpt.errors import ConfigError
from jaxgpt.evaluation.eval_step import row_multiple
from jaxgpt.experiment import TrainConfig
from jaxgpt.parallel.sharding import AnyMesh, batch_shards, check_length


def check_mesh(config: TrainConfig, mesh: AnyMesh) -> None:
    """Refuse a mesh that rows, tokens or layers do not divide among.

    Raises:
        ConfigError: names what to change.
    """
    shards, model = batch_shards(mesh), config.model
    rows, parts = config.batch.global_batch_size, config.batch.num_micro_batches
    if rows % (shards * parts):
        raise ConfigError(
            f"batch.global_batch_size={rows} is not divisible by {shards} batch shards x "
            f"batch.num_micro_batches={parts}; use a multiple of {shards * parts}"
        )
    model.layers.check(mesh.shape, rows // parts, model.num_layers, model.attention.num_kinds)
    check_length(config.batch.sequence_length, mesh)
    evaluated, multiple = config.evaluation.batch_size, row_multiple(model, mesh)
    if evaluated is not None and evaluated % multiple:
        raise ConfigError(
            f"evaluation.batch_size={evaluated} does not divide among the mesh's {shards} batch "
            f"shards and the parts that model.layers makes of it; use a multiple of {multiple}"
        )
