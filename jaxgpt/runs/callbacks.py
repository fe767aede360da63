"""What a training run does besides training: evaluation on held-out text, samples to read.

The loop knows neither; these hooks are composed here and given to it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from jaxgpt.batch import Batch
from jaxgpt.data.loader import evaluation_batches
from jaxgpt.data.shards import TokenDataset
from jaxgpt.distributed.replica_check import ReplicaCheck
from jaxgpt.errors import DivergedError, ReplicasDifferError
from jaxgpt.evaluation.eval_step import EvalProgram
from jaxgpt.evaluation.perplexity import measure_perplexity
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.inference.text_generation import continue_texts, encode_prompt, make_text_decoder
from jaxgpt.model.gpt import Gpt
from jaxgpt.runs.config import TrainConfig
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.loop import Hook, Pause
from jaxgpt.training.metrics import MetricsLog, TrainingProgress
from jaxgpt.training.overfitting import find_rise
from jaxgpt.training.state import TrainState

# Looks at a state at a step, and raises if it is not as it should be.
StateCheck = Callable[[int, TrainState], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What hooks need of a run.

    Attributes:
        config: the run's.
        model: without parameters.
        dataset: whose validation split is measured.
        tokenizer: the dataset's.
        mesh: where the parameters lie.
        log, progress: where results go.
        pause: called between the batches of an evaluation.
    """

    config: TrainConfig
    model: Gpt
    dataset: TokenDataset
    tokenizer: Tokenizer
    mesh: Mesh
    log: MetricsLog
    progress: TrainingProgress
    pause: Pause


def make_hooks(around: Surroundings, check_replicas: StateCheck | None) -> tuple[Hook, ...]:
    """The hooks that a config asks for: evaluation always, samples if it has prompts.

    Args:
        around: what they need.
        check_replicas: from `replica_check`.
    """
    evaluation, num_steps = around.config.evaluation, around.config.schedule.num_steps
    every = resolve_interval(evaluation.every_steps, num_steps)
    hooks = []
    if check_replicas is not None:
        steps = around.config.runtime.check_replicas_steps
        hooks.append(Hook(name="replicas", every_steps=steps or 0, run=check_replicas))
    hooks.append(Hook(name="evaluation", every_steps=every, run=_evaluation(around)))
    if evaluation.prompts:
        hooks.append(Hook(name="samples", every_steps=every, run=_samples(around)))
    return tuple(hooks)


def replica_check(config: TrainConfig, mesh: Mesh, log: MetricsLog) -> StateCheck | None:
    """Return what compares the devices' copies of a state; None where nothing is to be compared."""
    if config.runtime.check_replicas_steps is None or mesh.size == 1:
        return None
    replicas = ReplicaCheck(mesh)

    def check(step: int, state: TrainState) -> dict[str, Any]:
        try:
            replicas.check(step, state)
        except ReplicasDifferError as error:
            log.event("replicas_differ", step, message=str(error))
            raise
        return {}

    return check


def resolve_interval(every_steps: int | None, num_steps: int) -> int:
    """An interval in steps; None means a tenth of the run."""
    return max(1, num_steps // 10) if every_steps is None else every_steps


def _evaluation(around: Surroundings) -> Callable[[int, TrainState], dict[str, Any]]:
    config = around.config
    micro_batch = config.batch.global_batch_size // config.batch.num_micro_batches
    batch_size = config.evaluation.batch_size or micro_batch
    bytes_per_token = around.tokenizer.bytes_per_token
    program = EvalProgram(around.model, bytes_per_token, around.mesh)
    averaging = config.optimizer.averaging
    warned: set[int] = set()
    settings = _evaluation_settings(around)

    def evaluate(step: int, state: TrainState) -> dict[str, Any]:
        batches = evaluation_batches(
            around.dataset.splits["val"],
            config.batch.sequence_length,
            batch_size,
            config.evaluation.max_tokens,
            config.data.mask_documents,
        )
        batches = _pausing(batches, around.pause)
        weights = averaging.weights(state.trainable, state.opt_state)
        result = measure_perplexity(program.bind(weights), batches, bytes_per_token)
        if not math.isfinite(result.loss):
            raise DivergedError(
                f"step {step}: the validation loss is {result.loss}; this step is not saved. "
                "Lower schedule.peak_learning_rate and resume"
            )
        around.log.evaluation(step, result._asdict(), settings)
        around.progress.say(
            f"step {step}: validation loss {result.loss:.4f}, "
            f"{result.bits_per_byte:.4f} bits per byte over {result.tokens:,} tokens"
        )
        rise = find_rise(around.log.evaluations)
        if rise and rise.best_step not in warned:
            warned.add(rise.best_step)
            around.progress.say(f"WARNING {rise.describe()}")
        return {
            "eval_loss": result.loss,
            "eval_bits_per_byte": result.bits_per_byte,
            "eval_settings": settings,
        }

    return evaluate


def _evaluation_settings(around: Surroundings) -> dict[str, Any]:
    """Return all that makes evaluations of one run comparable, as JSON values."""
    config, split = around.config, around.dataset.splits["val"]
    most = config.evaluation.max_tokens
    return {
        "split": "val",
        "data": split.fingerprint,
        "tokenizer": around.tokenizer.fingerprint,
        "tokens": split.num_tokens if most is None else min(most, split.num_tokens),
        "sequence_length": config.batch.sequence_length,
        "mask_documents": config.data.mask_documents,
    }


def _pausing(batches: Iterator[Batch], pause: Pause) -> Iterator[Batch]:
    for batch in batches:
        pause()
        yield batch


def _samples(around: Surroundings) -> Callable[[int, TrainState], dict[str, Any]]:
    config, tokenizer = around.config, around.tokenizer
    prompts, context = config.evaluation.prompts, config.batch.sequence_length
    longest = max(len(encode_prompt(tokenizer, prompt)) for prompt in prompts)
    # Within the context that is trained, for positions beyond it mean nothing yet.
    length = max(1, min(config.evaluation.sample_tokens, context - longest))
    config.model.position.check_length(longest + length - 1)  # Now, not at the first sample.
    sampling = SamplingConfig(temperature=0.8, top_k=50)

    def sample(step: int, state: TrainState) -> dict[str, Any]:
        weights = config.optimizer.averaging.weights(state.trainable, state.opt_state)
        decoder = make_text_decoder(around.model, weights, tokenizer, context)
        texts = continue_texts(decoder, tokenizer, prompts, length, sampling, config.seed)
        for prompt, text in zip(prompts, texts, strict=True):
            around.log.event("sample", step, prompt=prompt, text=text)
        return {}

    return sample
