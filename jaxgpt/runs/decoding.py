"""`open_decoder`: from a run folder to a model that writes, for commands that show its text."""

import dataclasses
from typing import NamedTuple

from jaxgpt.config import replace
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decoding_mesh import ONE_DEVICE, DecodingMesh, on_devices
from jaxgpt.inference.precision import UNROUNDED, Precision
from jaxgpt.inference.text_generation import make_text_decoder
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.runs.run import Run, open_run
from jaxgpt.runtime.settings import configure_runtime


class OpenedDecoder(NamedTuple):
    """A checkpoint that is ready to write.

    Attributes:
        run: the run.
        step: the checkpoint's.
        decoder: on its devices; it ends rows where the run's texts end.
    """

    run: Run
    step: int
    decoder: Decoder


def open_decoder(
    checkpoint: str,
    step_name: str,
    precision: Precision = UNROUNDED,
    mesh: DecodingMesh = ONE_DEVICE,
) -> OpenedDecoder:
    """Open a run and restore one of its checkpoints.

    Args:
        checkpoint: a run folder, or its URL.
        step_name: latest, best or a number.
        precision: types of weights and cache.
        mesh: devices that share the model.

    Raises:
        JaxgptError: see `open_run`, `Run.choose_step`, `Run.restore_params` and
            `DecodingMesh.build`.
    """
    run = _divide(open_run(checkpoint, step_name), mesh)
    configure_runtime(run.config.runtime)
    step = run.choose_step(step_name)
    devices = mesh.build()
    params = run.restore_params(step, devices)
    ends = run.config.batch.sequence_length, run.config.stop_ids(run.tokenizer)
    decoder = make_text_decoder(
        run.build_model(),
        params,
        run.tokenizer,
        *ends,
        precision,
        on_devices(devices, run.config.sharding),
    )
    return OpenedDecoder(run, step, decoder)


def _divide(run: Run, mesh: DecodingMesh) -> Run:
    """Return a run whose key and value heads, where they are too few, lie on each device."""
    config = run.config
    attention = config.model.attention
    if not isinstance(attention, GroupedQueryAttention) or not attention.kv_heads % mesh.tensor:
        return run
    sharding = replace(config.sharding, kv_heads=None)
    return dataclasses.replace(run, config=replace(config, sharding=sharding))
