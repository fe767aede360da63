"""`open_decoder`: from a run folder to a model that writes, for commands that show its text."""

from typing import NamedTuple

from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.precision import UNROUNDED, Precision
from jaxgpt.inference.text_generation import make_text_decoder
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import Run, open_run
from jaxgpt.runtime.settings import configure_runtime


class OpenedDecoder(NamedTuple):
    """A checkpoint that is ready to write.

    Attributes:
        run: the run.
        step: the checkpoint's.
        decoder: on one device; it ends rows where the run's texts end.
    """

    run: Run
    step: int
    decoder: Decoder


def open_decoder(
    checkpoint: str, step_name: str, precision: Precision = UNROUNDED
) -> OpenedDecoder:
    """Open a run and restore one of its checkpoints.

    Args:
        checkpoint: a run folder, or its URL.
        step_name: latest, best or a number.
        precision: types of weights and cache.

    Raises:
        JaxgptError: see `open_run`, `Run.choose_step` and `Run.restore_params`.
    """
    run = open_run(checkpoint, step_name)
    configure_runtime(run.config.runtime)
    step = run.choose_step(step_name)
    params = run.restore_params(step, single_device_mesh())
    ends = run.config.batch.sequence_length, run.config.stop_ids(run.tokenizer)
    decoder = make_text_decoder(run.build_model(), params, run.tokenizer, *ends, precision)
    return OpenedDecoder(run, step, decoder)
