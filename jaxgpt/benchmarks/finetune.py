"""`finetune`: target tokens per second of supervised fine-tuning, next to pretraining and TRL."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.benchmarks.decode import gpt2_model, random_params
from jaxgpt.benchmarks.hardware_peak import describe_device
from jaxgpt.benchmarks.inputs.example_rows import iterate_as_text, sample_examples
from jaxgpt.benchmarks.inputs.shapes import SHAPES, Shape, ShapeName
from jaxgpt.benchmarks.measurement import Baseline, Measurement, measure_interleaved, versions_of
from jaxgpt.benchmarks.peers.torch_process import TorchProcess, require_torch
from jaxgpt.benchmarks.peers.torch_weights import gpt2_weights
from jaxgpt.config import configclass
from jaxgpt.data.loader import BatchConfig
from jaxgpt.errors import JaxgptError
from jaxgpt.finetuning.batches import ExampleBatches
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.model.adapted import is_trained, split
from jaxgpt.model.layers.adapters import NO_ADAPTER, Adapter, Lora
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.parallel.sharding import on_mesh, to_devices
from jaxgpt.runs.run import BaseCheckpoint
from jaxgpt.runs.setup import build_step
from jaxgpt.runs.tuning.finetune_config import FinetuneRunConfig
from jaxgpt.runtime.settings import RuntimeConfig, configure_runtime
from jaxgpt.training.optimizer import AdamW
from jaxgpt.training.schedule import Constant
from jaxgpt.training.state import init_parameters, init_state

_LEARNING_RATE, _RANK = 3e-4, 8
# Share of the first loss by which the sides may differ: their first batches have other rows.
_TOLERANCE = 0.02


@configclass
class FinetuneBenchmark:
    """Supervised fine-tuning on packed rows of examples, in target tokens a second.

    Reading and packing of rows is timed, too. The model has GPT-2's arithmetic, random weights.

    Floor: the same step on the same sequences as pretraining reads them: in full rows, with every
    token as a target, and attention inside each. Of its tokens per second it has the share that are
    targets of the examples.
    """

    shape: ShapeName = "small-10m"
    """Sizes of model and batch."""
    num_examples: int = 2000
    """Number of examples."""
    against: Literal["nothing", "trl"] = "nothing"
    """Side to compare with. trl: SFTTrainer with the same weights and examples, in a process of its
    own."""
    packing: Literal["bfd", "wrapped"] = "bfd"
    """Packing of TRL. bfd: best-fit decreasing, which its trainer flattens to one row; wrapped:
    examples are cut where a row ends."""
    steps: int = 6
    """Training steps per round."""
    rounds: int = 3
    """Rounds of each side."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        if min(self.steps, self.rounds, self.num_examples) < 1:
            raise ValueError("every number must be at least 1")

    def run(self) -> Measurement:
        """Measure.

        Raises:
            ConfigError: torch, transformers or trl is missing.
            JaxgptError: the sides do not compute the same.
        """
        if self.against == "trl":
            require_torch(False, ("torch", "transformers", "trl"), extra="trl")
        configure_runtime(RuntimeConfig())
        shape = SHAPES[self.shape]
        examples = sample_examples(self.num_examples, shape)
        theirs = None
        if self.against == "trl":
            theirs = _Theirs(self, shape, examples)
        try:
            return self._measure(shape, examples, theirs)
        finally:
            if theirs is not None:
                theirs.process.close()

    def _measure(
        self, shape: Shape, examples: TokenizedExamples, theirs: "_Theirs | None"
    ) -> Measurement:
        rows = ExampleBatches(examples, _batch_config(shape), seed=0)
        full = _Ours(shape, lambda: rows.iterate(0), self.steps)
        lora = _Ours(shape, lambda: rows.iterate(0), self.steps, Lora(rank=_RANK))
        pretraining = _Ours(shape, lambda: iterate_as_text(examples, shape), self.steps)
        sides: dict[str, Callable[[], float]] = {
            "supervised": full.rate, "lora": lora.rate, "pretraining": pretraining.rate
        }  # fmt: skip
        if theirs is not None:
            sides["trl"] = theirs.rate
        # Memory is touched, kernels are chosen.
        measure_interleaved(sides, 1)
        if theirs is not None:
            _check_equal(full.first_loss, theirs.first_loss)
        rates = measure_interleaved(sides, self.rounds)
        medians = {name: each[0] for name, each in rates.items()}
        baseline, packages = None, ["jax", "jaxlib"]
        if theirs is not None:
            ratio = medians["supervised"] / medians["trl"]
            baseline = Baseline(name="trl, SFTTrainer", value=medians["trl"], ratio=ratio)
            packages += ["torch", "transformers", "trl"]
        share = full.num_targets / full.num_tokens
        floor = medians["pretraining"] * share * pretraining.num_tokens / pretraining.num_targets
        return Measurement(
            measure="finetune",
            value=medians["supervised"],
            unit="target tokens/s",
            floor=floor,
            floor_is="pretraining on the same sequences, at the share of targets",
            spread=rates["supervised"][1],
            settings={
                "shape": self.shape,
                "examples": self.num_examples,
                "targets of the tokens": f"{share:.1%}",
                "tokens of the places": f"{full.num_tokens / full.num_places:.1%}",
                "packing of trl": self.packing,
                "lora against all weights": f"{medians['lora'] / medians['supervised']:.3f}x",
                "memory above the weights": f"{full.bytes_above_weights:,} bytes",
                "the same, lora": f"{lora.bytes_above_weights:,} bytes",
                **describe_device(),
            },
            versions=versions_of(packages),
            against=baseline,
        )


def _batch_config(shape: Shape) -> BatchConfig:
    return BatchConfig(sequence_length=shape.sequence_length, global_batch_size=shape.batch_size)


class _Ours:
    """jaxgpt's step as `finetune.py` composes it, with the reading of its batches.

    Attributes:
        first_loss: of the first step.
        num_targets, num_tokens, num_places: targets, tokens, and places for them, of all batches
            so far.
        bytes_above_weights: gradients, activations and the optimiser's state.
    """

    def __init__(
        self,
        shape: Shape,
        read: Callable[[], Iterator[Batch]],
        num_steps: int,
        adapter: Adapter = NO_ADAPTER,
    ) -> None:
        config = FinetuneRunConfig(
            base=BaseCheckpoint(run="", step=0, fingerprint=""),
            model=gpt2_model(shape, "float32"),
            adapter=adapter,
            batch=_batch_config(shape),
            schedule=Constant(peak_learning_rate=_LEARNING_RATE, warmup_share=0.0),
            optimizer=AdamW(weight_decay=0.0),
        )
        # TRL trains on one device too.
        self._mesh, self._sharding = single_device_mesh(), config.sharding
        self._batches, self._num_steps = read(), num_steps
        self.num_targets = self.num_tokens = self.num_places = 0
        self.first_loss = float("nan")
        vocab_size = shape.vocab_size
        parts = build_step(config, self._mesh, vocab_size, jnp.ones(vocab_size, jnp.int32))
        with on_mesh(self._mesh, self._sharding):
            params = init_parameters(parts.model, self._sharding, self._mesh, config.seed)
            trained, frozen = split(params, partial(is_trained, parts.model))
            state = init_state(trained, parts.optimizer, parts.plan, config.seed, frozen)
            step: Any = parts.step
            example = to_devices(next(self._batches), self._mesh)
            self._step = step.lower(state, example).compile()
        moments = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
        self.bytes_above_weights = self._step.memory_analysis().temp_size_in_bytes + moments
        self._state = state

    def rate(self) -> float:
        """Take some steps; return targets per second."""
        targets, losses = 0, []
        jax.block_until_ready(self._state)
        start = time.perf_counter()
        for _ in range(self._num_steps):
            batch = next(self._batches)
            targets += int(np.count_nonzero(batch.loss_weights_BT))
            assert batch.segment_ids_BT is not None
            self.num_tokens += int(np.count_nonzero(batch.segment_ids_BT))
            self.num_places += batch.tokens_BT.size
            self._state, metrics = self._step(self._state, to_devices(batch, self._mesh))
            losses.append(metrics.loss)
        jax.block_until_ready(self._state)
        seconds = time.perf_counter() - start
        self.num_targets += targets
        if np.isnan(self.first_loss):
            self.first_loss = float(losses[0])
        return targets / seconds


class _Theirs:
    """TRL's side.

    Attributes:
        first_loss: of the first step.
    """

    def __init__(
        self, benchmark: FinetuneBenchmark, shape: Shape, examples: TokenizedExamples
    ) -> None:
        self.first_loss = float("nan")
        self._num_steps = benchmark.steps
        params = random_params(gpt2_model(shape, "float32").build(shape.vocab_size))
        arrays = {
            "ids": examples.tokens_N,
            "is_target": examples.weights_N > 0,
            "offsets": examples.offsets,
        }
        self.process = TorchProcess(
            "sft",
            gpt2_weights(jax.tree.map(np.asarray, params), shape.vocab_size) | arrays,
            shape=shape.gpt2_fields,
            settings={
                "batch_size": shape.batch_size,
                "packing": benchmark.packing,
                "learning_rate": _LEARNING_RATE,
            },
        )

    def rate(self) -> float:
        """Take some steps; return targets per second."""
        answer = self.process.ask(num_steps=self._num_steps)
        if np.isnan(self.first_loss):
            self.first_loss = answer["first_loss"]
        return answer["targets"] / answer["seconds"]


def _check_equal(ours: float, theirs: float) -> None:
    # "not <=", so that NaN is unequal.
    if not abs(ours - theirs) <= _TOLERANCE * abs(ours):
        raise JaxgptError(
            f"the sides do not compute the same: first loss {ours:.4f} here and {theirs:.4f} by TRL"
        )
