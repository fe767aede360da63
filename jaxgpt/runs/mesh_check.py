"""Checks before training starts, made for a plan, too: types of weights, and meshes."""

from jaxgpt.errors import ConfigError
from jaxgpt.evaluation.eval_step import row_multiple
from jaxgpt.parallel.sharding import AnyMesh, batch_shards, check_length
from jaxgpt.runs.config import RunConfig


def check_param_dtype(config: RunConfig) -> None:
    """Refuse to train weights that are not kept in float32.

    A bfloat16 has 8 significant bits: an update below 1/512 of a weight is rounded away, so that a
    norm's scale of 1 never moves at a usual learning rate.

    Raises:
        ConfigError: says which field to set instead.
    """
    dtype = config.model.param_dtype
    if dtype != "float32":
        raise ConfigError(
            f"model.param_dtype={dtype!r} cannot be trained: updates smaller than the rounding of "
            f"{dtype} are lost; set model.param_dtype='float32', and for speed and memory "
            f"model.compute_dtype={dtype!r} (--model.param-dtype float32 "
            f"--model.compute-dtype {dtype}). A run that has such weights can be evaluated, not "
            "continued"
        )


def check_mesh(config: RunConfig, mesh: AnyMesh) -> None:
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
    model.layers.check(mesh.shape, rows // parts, model.num_layers, model.attention.pattern_length)
    check_length(config.batch.sequence_length, mesh)
    evaluated, multiple = config.evaluation.batch_size, row_multiple(model, mesh)
    if evaluated is not None and evaluated % multiple:
        raise ConfigError(
            f"evaluation.batch_size={evaluated} does not divide among the mesh's {shards} batch "
            f"shards and the parts that model.layers makes of it; use a multiple of {multiple}"
        )
