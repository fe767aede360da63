"""`open_decoder`: from a run folder to a model that writes, for commands that show its text."""

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import tyro

from jaxgpt.config import replace
from jaxgpt.errors import MismatchError
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decoding_mesh import ONE_DEVICE, DecodingMesh, on_devices
from jaxgpt.inference.engine.drafting import OpenCheckpoint, Speculation
from jaxgpt.inference.engine.speculating_decoder import with_speculation
from jaxgpt.inference.precision import UNROUNDED, WHILE_WRITING, Precision
from jaxgpt.inference.text_generation import make_text_decoder
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.runs.run import Run, open_run
from jaxgpt.runtime.settings import configure_runtime


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """Types, devices and drafts of a model that writes."""

    precision: Annotated[Precision, tyro.conf.arg(name="")] = field(default=WHILE_WRITING)
    mesh: DecodingMesh = field(default_factory=DecodingMesh)
    speculation: Speculation | None = None
    """Drafts of tokens, which the model verifies several at a time; up to rounding the text is
    the one without."""

    def open(self, checkpoint: str, step_name: str) -> "OpenedDecoder":
        """Return a checkpoint that is ready to write; see `open_with_drafts`."""
        how = self.precision, self.mesh, self.speculation
        opened, open_checkpoint = open_with_drafts(checkpoint, step_name, *how)
        decoder = with_speculation(opened.decoder, self.speculation, open_checkpoint)
        return opened._replace(decoder=decoder)


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
        precision: types of weights, cache and arithmetic.
        mesh: devices that share the model.

    Raises:
        JaxgptError: see `open_run`, `Run.choose_step`, `Run.restore_params` and
            `DecodingMesh.build`.
    """
    run = open_run(checkpoint, step_name)
    configure_runtime(run.config.runtime)
    return _open(run, step_name, precision, mesh)


def open_with_drafts(
    checkpoint: str,
    step_name: str,
    precision: Precision,
    mesh: DecodingMesh,
    speculation: Speculation | None,
) -> tuple[OpenedDecoder, OpenCheckpoint]:
    """Open a checkpoint, and what drafts tokens for it.

    A checkpoint that drafts is opened first: it is the smaller one, and can be the wrong one.

    Args:
        checkpoint: a run folder, or its URL.
        step_name: latest, best or a number.
        precision: types of weights, cache and arithmetic.
        mesh: devices that share the model.
        speculation: where drafted tokens come from; None: there are none.

    Returns:
        the checkpoint, and what opens others that draft for it, each once.

    Raises:
        JaxgptError: see `open_decoder`; and one that drafts has another tokenizer.
    """
    run = open_run(checkpoint, step_name)
    configure_runtime(run.config.runtime)
    open_checkpoint = functools.cache(_opener(run, precision, mesh))
    if speculation is not None:
        speculation.open(open_checkpoint)
    return _open(run, step_name, precision, mesh), open_checkpoint


def _opener(target: Run, precision: Precision, mesh: DecodingMesh) -> OpenCheckpoint:
    """Return what opens checkpoints that draft tokens for a run, on the same devices."""

    def open_checkpoint(place: str, step_name: str) -> Decoder:
        run = open_run(place, step_name)
        if run.tokenizer.fingerprint != target.tokenizer.fingerprint:
            raise MismatchError(
                f"{place} has another tokenizer ({run.tokenizer.fingerprint[:12]}) than "
                f"{target.directory} ({target.tokenizer.fingerprint[:12]}): its ids are other "
                "tokens; let a run of the same tokenizer draft"
            )
        return _open(run, step_name, precision, mesh).decoder

    return open_checkpoint


def _open(run: Run, step_name: str, precision: Precision, mesh: DecodingMesh) -> OpenedDecoder:
    """Restore a checkpoint of a run; see `open_decoder`."""
    run = _divide(run, mesh)
    step = run.choose_step(step_name)
    devices = mesh.build()
    params = run.restore_params(step, devices)
    ends = run.config.batch.sequence_length, run.config.stop_ids(run.tokenizer)
    decoder = make_text_decoder(
        precision.choose(run.build_model(), is_shared=devices.size > 1),
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
