"""Evaluation of a run: restore a checkpoint, score a split of a dataset and tasks, compare."""

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import tyro
from jax.sharding import Mesh

from jaxgpt.checkpoints.lineage import package_versions
from jaxgpt.distributed.hosts import HostsConfig, is_first_host
from jaxgpt.distributed.preflight import preflight
from jaxgpt.errors import MismatchError, UsageError
from jaxgpt.evaluation.harness import HarnessOptions, run_harness
from jaxgpt.evaluation.held_out import HeldOut
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.runner.options import TaskOptions, report_tasks, run_tasks
from jaxgpt.evaluation.scoring import Scorer
from jaxgpt.evaluation.split_scores import score_held_out
from jaxgpt.inference.precision import UNROUNDED, Precision
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import on_mesh
from jaxgpt.runs.run import Run, open_run
from jaxgpt.runtime.settings import configure_runtime

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Score a checkpoint on a split of a dataset, where every token is predicted once, and on
    tasks."""

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
    precision: Annotated[Precision, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=Precision
    )
    tasks: Annotated[TaskOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=TaskOptions
    )
    harness: Annotated[HarnessOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=HarnessOptions
    )
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    json: bool = False
    """Print one JSON object."""


def evaluate(options: EvalOptions) -> dict[str, Any]:
    """Return the figures of a checkpoint by name; the hosts have joined already.

    Raises:
        UsageError: there is no such run, dataset, split or file.
        MismatchError: the dataset was made with another tokenizer, the second model cannot be
            asked about the examples, or hosts differ.
        BadInputError: a file of a task cannot be read.
        DivergedError: the model's scores are not finite.
    """
    tasks, rows, silent = options.tasks, options.batch_size, not is_first_host()
    run = open_run(options.checkpoint, options.step)
    run.config.check_examples(tasks.examples)
    peer = _open_peer(run, options)
    configure_runtime(run.config.runtime)
    step, held_out = run.choose_step(options.step), _open_held_out(options, run)
    asked = {**dataclasses.asdict(options), "hosts": None, "step": step}
    preflight({"versions": package_versions(), "options": asked, "run": run.lineage})
    mesh = make_mesh(options.mesh)
    result: dict[str, Any] = {"checkpoint": options.checkpoint, "step": step}
    with loaded_run(run, step, mesh, options.sequence_length, options.precision) as loaded:
        # First the tasks: an error in one of their files comes at once.
        results, others = run_tasks(tasks, loaded, rows, silent), []
        if options.harness.harness:
            scorer = Scorer(loaded, rows, tasks.add_bos, silent)
            num_shots = tasks.shots.num_shots
            result["harness"] = run_harness(options.harness, scorer, num_shots, tasks.limit)
        if held_out:
            data, name = held_out
            data = run.config.prepare_held_out(data, run.directory, mesh)
            objective, most = run.config.objective, options.max_tokens
            scores = score_held_out(loaded, data, objective, rows, most, silent)
            result |= {"data": name, "split": options.split, **scores}
            results += run.config.score_examples(loaded, data, tasks.examples, rows, silent)
    if peer:
        other, step = peer
        with loaded_run(other, step, mesh, options.sequence_length, options.precision) as loaded:
            others = run_tasks(tasks, loaded, rows, silent)
            if held_out:
                # Both models are asked about the examples of the first one, in one way.
                loaded = dataclasses.replace(loaded, stop_ids=run.config.stop_ids(run.tokenizer))
                others += run.config.score_examples(loaded, data, tasks.examples, rows, silent)
        result["against"] = {"checkpoint": tasks.against, "step": step}
    return result | report_tasks(tasks, results, others, is_first_host())


@contextmanager
def loaded_run(
    run: Run,
    step: int,
    mesh: Mesh,
    length: int | None = None,
    precision: Precision = UNROUNDED,
) -> Iterator[LoadedModel]:
    """Restore a checkpoint onto a mesh, which is in force until the end.

    Args:
        run: the run.
        step: a step that `choose_step` returned.
        mesh: devices that hold the parameters.
        length: longest context in tokens; None: as in training.
        precision: types of weights, cache and arithmetic.

    Raises:
        MismatchError: the checkpoint holds other parameters than the config describes.
        ConfigError: the model or the mesh does not allow contexts of this length.
    """
    length = length or run.config.batch.sequence_length
    with on_mesh(mesh, run.config.sharding):
        model = precision.choose(run.build_model(), is_shared=mesh.size > 1)
        params = precision.round(model, run.restore_params(step, mesh))
        yield LoadedModel(
            precision.without_cache(model),
            params,
            run.tokenizer,
            mesh,
            length,
            prompt_encoder=run.config.encode_prompt,
            prompt_form=run.config.prompt_form,
            precision=precision,
            stop_ids=run.config.stop_ids(run.tokenizer),
        )


def _open_peer(run: Run, options: EvalOptions) -> tuple[Run, int] | None:
    """Open the run of the second model, if there is one, and choose its step.

    Raises:
        UsageError, NoCheckpointError: there is no such run or step.
        MismatchError: with --examples, it has another tokenizer, or predicts something else.
    """
    tasks = options.tasks
    if tasks.against is None:
        return None
    other = open_run(tasks.against, tasks.against_step)
    opened = other, other.choose_step(tasks.against_step)
    if tasks.examples.examples is None:
        return opened
    for (what, ours), theirs in zip(_traits(run).items(), _traits(other).values(), strict=True):
        if ours != theirs:
            raise MismatchError(
                f"{tasks.against} has another {what} ({theirs}) than {options.checkpoint} "
                f"({ours}), so --examples cannot compare them; choose another --against"
            )
    return opened


def _traits(run: Run) -> dict[str, Any]:
    """Return what two models share that can be asked about the same examples."""
    head = run.config.model.head
    return {
        "tokenizer": run.tokenizer.fingerprint[:12],
        "head": type(head).__name__,
        "number of classes": getattr(head, "num_classes", None),
        "list of labels": getattr(run.config.objective, "labels", ()),
    }


def _open_held_out(options: EvalOptions, run: Run) -> tuple[HeldOut, str] | None:
    """Return the data to score and their name; None if only tasks can be scored."""
    length = options.sequence_length or run.config.batch.sequence_length
    try:
        return run.config.open_held_out(
            options.data, options.split, length, run.tokenizer, options.checkpoint
        )
    except UsageError as error:
        others = options.tasks.are_asked_for or options.harness.harness
        if options.tasks.examples.examples is not None or not others:
            raise
        logger.warning("only the tasks are scored: %s", error)
        return None
