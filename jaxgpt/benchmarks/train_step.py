"""`train-step`: tokens per second of the optimiser step, against the device's matrix products."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.benchmarks.hardware_peak import describe_device, matmul_rate
from jaxgpt.benchmarks.inputs.shapes import SHAPES, Shape, ShapeName
from jaxgpt.benchmarks.inputs.synthetic_text import sample_batch
from jaxgpt.benchmarks.measurement import Baseline, Measurement, measure_interleaved, versions_of
from jaxgpt.benchmarks.peers.torch_process import TorchProcess, require_torch
from jaxgpt.benchmarks.peers.torch_weights import torch_weights
from jaxgpt.benchmarks.train_rounds import TrainRounds
from jaxgpt.config import configclass, replace
from jaxgpt.data.loader import BatchConfig
from jaxgpt.errors import JaxgptError
from jaxgpt.model.cost import flops_per_token
from jaxgpt.model.gpt import Dtype
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runtime.settings import RuntimeConfig
from jaxgpt.training.optimizer import AdamW
from jaxgpt.training.schedule import Constant

# Different ones, so that a model has to learn the language and not a batch.
_NUM_BATCHES = 8


@configclass
class TrainStepBenchmark:
    """The compiled train step on batches that lie on the device, in tokens a second.

    Floor: nominal operations (6 N + 12 L D T a token, causality not discounted) at the rate of
    matrix products of the same operands, measured in the same run.
    """

    shape: ShapeName = "nanogpt-cpu"
    """Sizes of model and batch."""
    dtype: Dtype = "float32"
    """Type of activations and operands; weights and sums are float32."""
    batch_size: int | None = None
    """Rows per step; None: those of the shape."""
    sequence_length: int | None = None
    """Tokens per row; None: those of the shape."""
    num_micro_batches: int = 1
    """Micro-batches per step of jaxgpt."""
    cpu_devices: int = 1
    """Number of simulated CPU devices of jaxgpt, each with its part of the batch."""
    document: int | None = None
    """Tokens per document, with several packed in a row; None: one document per row."""
    against: Literal["nothing", "pytorch"] = "nothing"
    """Side to compare with. pytorch: an equal model in a process of its own, from the same weights
    on the same tokens."""
    mode: Literal["eager", "compile", "compile-cudnn"] = "compile"
    """Mode of PyTorch, always with its fused attention and AdamW; bfloat16 by autocast.
    compile-cudnn: compiled, and only cuDNN's attention."""
    steps: int = 10
    """Training steps per round."""
    rounds: int = 5
    """Rounds of each side."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        least = (self.steps, self.rounds, self.num_micro_batches, self.batch_size or 1)
        if min(*least, self.sequence_length or 1, self.document or 1) < 1:
            raise ValueError("steps, rounds, rows and tokens must be at least 1")
        if self.against == "pytorch" and self.document is not None:
            raise ValueError("against = 'pytorch' needs document = None: it has no packed rows")

    def sizes(self) -> Shape:
        """Return the shape, with the sizes that this measure sets in its place."""
        shape = SHAPES[self.shape]
        return replace(
            shape,
            batch_size=self.batch_size or shape.batch_size,
            sequence_length=self.sequence_length or shape.sequence_length,
        )

    def train_config(self) -> TrainConfig:
        """Return the config of the run whose step is measured."""
        shape = self.sizes()
        return TrainConfig(
            model=shape.model(self.dtype),
            batch=BatchConfig(
                sequence_length=shape.sequence_length,
                global_batch_size=shape.batch_size,
                num_micro_batches=self.num_micro_batches,
            ),
            schedule=Constant(peak_learning_rate=3e-4, warmup_share=0.0),
            optimizer=AdamW(),
            runtime=RuntimeConfig(cpu_devices=self.cpu_devices),
        )

    def batches(self) -> list[Batch]:
        """Return the tokens that both sides are trained on."""
        shape = self.sizes()
        return [
            sample_batch(
                shape.batch_size, shape.sequence_length, shape.vocab_size, seed, self.document
            )
            for seed in range(_NUM_BATCHES)
        ]

    def run(self) -> Measurement:
        """Measure.

        Raises:
            ConfigError: PyTorch, or what its mode needs, is missing.
            JaxgptError: a loss did not fall, or the two sides do not compute the same.
        """
        if self.against == "pytorch":
            require_torch(self.mode != "eager")
        shape, batches = self.sizes(), self.batches()
        config = self.train_config()
        ours = TrainRounds(config, shape.vocab_size, batches)
        torch = self._start_torch(ours, batches) if self.against == "pytorch" else None
        try:
            losses, rates, floors = self._measure(ours, torch)
        finally:
            if torch is not None:
                torch.close()
        value, spread = rates["jaxgpt"]
        baseline = None
        if torch is not None:
            theirs = rates["pytorch"][0]
            baseline = Baseline(name=f"pytorch {self.mode}", value=theirs, ratio=value / theirs)
        packages = ["jax", "jaxlib", "flax", "optax", *(["torch"] if torch else [])]
        return Measurement(
            measure="train-step",
            value=value,
            unit="tokens/s",
            floor=max(floors) / self.flops_per_token(),
            floor_is=f"matrix products in {self.dtype} at {max(floors) / 1e9:,.0f} GFLOP/s",
            spread=spread,
            settings={
                **_described(shape, self.dtype),
                "first and last loss": [losses[0], losses[-1]],
                "temporary_bytes": ours.compiled.memory_analysis().temp_size_in_bytes,
            },
            versions=versions_of(packages),
            against=baseline,
        )

    def flops_per_token(self) -> int:
        """Return nominal operations per token, of the vocabulary without padding."""
        shape = self.sizes()
        model = replace(shape.model(self.dtype), vocab_multiple=1)
        return flops_per_token(model, shape.vocab_size, shape.sequence_length)

    def _start_torch(self, ours: TrainRounds, batches: list[Batch]) -> TorchProcess:
        optimizer, shape = AdamW(), self.sizes()
        arrays = torch_weights(ours.parameters(), shape.vocab_size) | {
            "tokens": np.stack([batch.tokens_BT for batch in batches]),
            "targets": np.stack([batch.targets_BT for batch in batches]),
        }
        return TorchProcess(
            "train",
            arrays,
            shape=_sizes_of(shape),
            settings={
                "mode": self.mode,
                "dtype": self.dtype,
                "learning_rate": self.train_config().schedule.peak_learning_rate,
                "weight_decay": optimizer.weight_decay,
                "betas": [optimizer.b1, optimizer.b2],
                "eps": optimizer.eps,
                "clip_norm": optimizer.clip_norm,
            },
        )

    def _measure(
        self, ours: TrainRounds, torch: TorchProcess | None
    ) -> tuple[list[float], Any, list[float]]:
        num_tokens = self.steps * self.sizes().tokens_per_step
        losses: list[float] = []

        def round_of_ours() -> float:
            seconds, new = ours.train(self.steps)
            losses.extend(new)
            return num_tokens / seconds

        sides: dict[str, Callable[[], float]] = {"jaxgpt": round_of_ours}
        # Memory is touched, kernels are chosen, PyTorch compiles.
        losses += ours.train(2)[1]
        if torch is not None:
            theirs: list[float] = torch.ask(num_steps=2)["losses"]
            _check_equal(losses[0], theirs[0], self.dtype)

            def round_of_theirs() -> float:
                answer = torch.ask(num_steps=self.steps)
                theirs.extend(answer["losses"])
                return num_tokens / answer["seconds"]

            sides["pytorch"] = round_of_theirs
        floors = [matmul_rate(self.dtype)]
        rates = measure_interleaved(sides, self.rounds)
        floors.append(matmul_rate(self.dtype))
        _check_fall("jaxgpt", losses)
        if torch is not None:
            _check_fall("pytorch", theirs)
        return losses, rates, floors


def _check_equal(ours: float, theirs: float, dtype: Dtype) -> None:
    tolerance = 1e-4 if dtype == "float32" else 2e-2
    # "not <=", so that NaN is unequal.
    if not abs(ours - theirs) <= tolerance * abs(ours):
        raise JaxgptError(
            f"the sides do not compute the same: first loss {ours:.6f} here and {theirs:.6f} by "
            "PyTorch, from the same weights and tokens"
        )


def _check_fall(side: str, losses: list[float]) -> None:
    tail = losses[-max(1, len(losses) // 4) :]
    if not np.mean(tail) < losses[0]:
        raise JaxgptError(
            f"the loss of {side} did not fall ({losses[0]:.4f}, then {np.mean(tail):.4f}): a step "
            "that does not learn cannot be compared; give it more --steps"
        )


def _sizes_of(shape: Shape) -> dict[str, int]:
    names = ("num_layers", "d_model", "num_heads", "sequence_length", "vocab_size")
    return {name: getattr(shape, name) for name in names}


def _described(shape: Shape, dtype: Dtype) -> dict[str, Any]:
    return {
        **_sizes_of(shape),
        "batch_size": shape.batch_size,
        "dtype": dtype,
        **describe_device(),
    }
