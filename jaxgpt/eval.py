"""`python -m jaxgpt.eval --checkpoint RUN`: loss, perplexity and bits per byte of a checkpoint."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from jaxgpt.checkpoints.lineage import package_versions
from jaxgpt.command_line import parse_options, require_at_least, run_verb
from jaxgpt.distributed.hosts import HostsConfig, is_first_host, joined_hosts
from jaxgpt.distributed.preflight import preflight
from jaxgpt.errors import DivergedError
from jaxgpt.evaluation.eval_step import EvalProgram
from jaxgpt.evaluation.held_out import open_split, read_batches
from jaxgpt.evaluation.perplexity import measure_perplexity
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import check_length, on_mesh
from jaxgpt.runs.config import open_run
from jaxgpt.runtime.settings import configure_runtime


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Score a checkpoint on a split of a dataset; every token is predicted once."""

    checkpoint: str
    """Run folder, as written by jaxgpt.train, or its URL."""
    step: str = "latest"
    """Checkpoint: latest, best (lowest validation loss), or a step's number."""
    data: str | None = None
    """Dataset folder; None: that of the run."""
    split: str = "val"
    """Split of the dataset to evaluate on."""
    batch_size: int = 32
    """Rows per batch, rounded up to what devices and stages divide; changes no result."""
    sequence_length: int | None = None
    """Tokens per row, and thus the longest context; None: as in training."""
    max_tokens: int | None = None
    """Most tokens to read, from the beginning; None: the whole split."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    json: bool = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> None:
    """Parse, restore, score."""
    options = parse_options(EvalOptions, argv, prog="jaxgpt eval")
    require_at_least(options, batch_size=1, sequence_length=1, max_tokens=2)
    with joined_hosts(options.hosts):
        values = _score(options)
        lines = [f"{k:16} {f'{v:.4f}' if isinstance(v, float) else v}" for k, v in values.items()]
        if is_first_host():
            print(json.dumps(values) if options.json else "\n".join(lines))


def _score(options: EvalOptions) -> dict[str, Any]:
    run = open_run(options.checkpoint, options.step)
    configure_runtime(run.config.runtime)
    step = run.choose_step(options.step)
    data = options.data or run.own_dataset()
    split = open_split(data, options.split, run.tokenizer, options.checkpoint)
    length = options.sequence_length or run.config.batch.sequence_length
    asked = {**dataclasses.asdict(options), "hosts": None, "step": step}
    preflight({"versions": package_versions(), "options": asked, "run": run.lineage})
    mesh = make_mesh(options.mesh)
    check_length(length, mesh)
    with on_mesh(mesh, run.config.sharding):
        program = EvalProgram(run.build_model(), run.tokenizer.bytes_per_token, mesh)
        rows = program.round_up(options.batch_size)
        masked = run.config.data.mask_documents
        batches = read_batches(split, length, rows, options.max_tokens, masked, is_first_host())
        params = run.restore_params(step, mesh)
        result = measure_perplexity(program.bind(params), batches, run.tokenizer.bytes_per_token)
    if not math.isfinite(result.loss):
        raise DivergedError(f"the loss at step {step} is {result.loss}; try an earlier --step")
    about = {"checkpoint": options.checkpoint, "step": step, "data": data, "split": options.split}
    return {**about, "sequence_length": length, **result._asdict()}


if __name__ == "__main__":
    run_verb(main)
