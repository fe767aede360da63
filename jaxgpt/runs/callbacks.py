"""Hooks of a training run: evaluation on held-out text, samples to read, comparison of replicas.

The loop knows none of them: they are made here and passed to it.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from jaxgpt.batch import Batch
from jaxgpt.distributed.replica_check import ReplicaCheck
from jaxgpt.errors import DivergedError, ReplicasDifferError
from jaxgpt.evaluation.eval_step import EvalProgram
from jaxgpt.evaluation.held_out import HeldOut
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.inference.text_generation import continue_texts, make_text_decoder
from jaxgpt.runs.setup import TrainingSetup
from jaxgpt.training.loop import Heartbeat, Hook, HookFunction
from jaxgpt.training.metrics import MetricsLog
from jaxgpt.training.overfitting import find_rise
from jaxgpt.training.state import TrainState

# Looks at a state at a step, and raises if it is not as it should be.
StateCheck = Callable[[int, TrainState], None]


def make_hooks(
    setup: TrainingSetup, log: MetricsLog, check_replicas: StateCheck | None
) -> tuple[Hook, ...]:
    """Return the hooks that a config asks for: evaluation if data are held out, samples if it has
    prompts.

    Args:
        setup: of the run.
        log: where results go.
        check_replicas: from `replica_check`.
    """
    evaluation, num_steps = setup.config.evaluation, setup.config.schedule.num_steps
    every = resolve_interval(evaluation.every_steps, num_steps)
    hooks = []
    if check_replicas is not None:
        steps = setup.config.runtime.check_replicas_steps or 0
        hooks.append(Hook(name="replicas", every_steps=steps, run=_only_check(check_replicas)))
    if setup.sources.held_out.count_batches(1):
        hooks.append(Hook(name="evaluation", every_steps=every, run=_evaluation(setup, log)))
    if evaluation.prompts:
        hooks.append(Hook(name="samples", every_steps=every, run=_samples(setup, log)))
    return tuple(hooks)


def replica_check(setup: TrainingSetup, log: MetricsLog) -> StateCheck | None:
    """Return a check that compares the devices' copies of a state; None if none is needed."""
    if setup.config.runtime.check_replicas_steps is None or setup.mesh.size == 1:
        return None
    replicas = ReplicaCheck(setup.mesh)

    def check(step: int, state: TrainState) -> None:
        try:
            replicas.check(step, state)
        except ReplicasDifferError as error:
            log.event("replicas_differ", step, message=str(error))
            raise

    return check


def resolve_interval(every_steps: int | None, num_steps: int) -> int:
    """Return an interval in steps; None means a tenth of the run."""
    return max(1, num_steps // 10) if every_steps is None else every_steps


def _only_check(check: StateCheck) -> HookFunction:
    def run(step: int, state: TrainState, heartbeat: Heartbeat) -> dict[str, Any]:
        check(step, state)
        return {}

    return run


def _evaluation(setup: TrainingSetup, log: MetricsLog) -> HookFunction:
    config, tokenizer = setup.config, setup.sources.tokenizer
    micro_batch = config.batch.global_batch_size // config.batch.num_micro_batches
    batch_size = config.evaluation.batch_size or micro_batch
    program = EvalProgram(setup.held_out_loss, config.model, setup.mesh)
    warned: set[int] = set()
    settings = _evaluation_settings(setup)

    def evaluate(step: int, state: TrainState, heartbeat: Heartbeat) -> dict[str, Any]:
        sums_of = program.bind(setup.weights(state))

        def measure(held_out: HeldOut) -> dict[str, Any]:
            batches = held_out.batches(batch_size, config.evaluation.max_tokens)
            batches = _with_heartbeat(batches, heartbeat)
            return config.objective.measure(sums_of, batches, tokenizer)

        result = measure(setup.sources.held_out)
        loss = result["loss"]
        if not math.isfinite(loss):
            advice = "this step is not saved. Lower schedule.peak_learning_rate and resume"
            if not step:
                advice = "nothing was trained yet; choose another checkpoint or other data"
            raise DivergedError(f"step {step}: the validation loss is {loss}; {advice}")
        others = {name: measure(one)["loss"] for name, one in setup.sources.also_measured.items()}
        log.evaluation(step, {**result, **others}, settings)
        setup.progress.say(f"step {step}: {config.objective.describe(result)}")
        for name, other in others.items():
            setup.progress.say(f"step {step}: {name.replace('_', ' ')} {other:.4f}")
        rise = find_rise(log.evaluations)
        if rise and rise.best_step not in warned:
            warned.add(rise.best_step)
            setup.progress.say(f"WARNING {rise.describe()}")
        figures = (
            {"eval_bits_per_byte": result["bits_per_byte"]} if "bits_per_byte" in result else {}
        )
        return {"eval_loss": loss, **figures, "eval_settings": settings}

    return evaluate


def _evaluation_settings(setup: TrainingSetup) -> dict[str, Any]:
    """Return the settings that evaluations must share to be comparable, as JSON values."""
    return {
        "split": "val",
        "tokenizer": setup.sources.tokenizer.fingerprint,
        **setup.sources.held_out.settings(setup.config.evaluation.max_tokens),
    }


def _with_heartbeat(batches: Iterator[Batch], heartbeat: Heartbeat) -> Iterator[Batch]:
    for batch in batches:
        heartbeat()
        yield batch


def _samples(setup: TrainingSetup, log: MetricsLog) -> HookFunction:
    config, tokenizer = setup.config, setup.sources.tokenizer
    texts, context = config.evaluation.prompts, config.batch.sequence_length
    prompts = [config.encode_prompt(tokenizer, text) for text in texts]
    longest = max(len(prompt.ids) + prompt.num_dropped for prompt in prompts)
    # Within the context that is trained, for positions beyond it mean nothing yet.
    length = max(1, min(config.evaluation.sample_tokens, context - longest))
    config.model.position.check_length(longest + length - 1)  # Now, not at the first sample.
    sampling = SamplingConfig(temperature=0.8, top_k=50)
    model = config.model.build(tokenizer.vocab_size)

    def sample(step: int, state: TrainState, heartbeat: Heartbeat) -> dict[str, Any]:
        weights, stop_ids = setup.merged_weights(state), config.stop_ids(tokenizer)
        decoder = make_text_decoder(model, weights, tokenizer, context, stop_ids)
        answers = continue_texts(decoder, tokenizer, prompts, length, sampling, config.seed)
        for text, answer in zip(texts, answers, strict=True):
            log.event("sample", step, prompt=text, text=answer)
        return {}

    return sample
