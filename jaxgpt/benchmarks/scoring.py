"""`scoring`: requests per second of log-likelihoods, as evaluation tasks ask for them."""

import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from jaxgpt.benchmarks.decode import gpt2_model, random_params
from jaxgpt.benchmarks.hardware_peak import describe_device, matmul_rate
from jaxgpt.benchmarks.inputs.shapes import SHAPES, Shape, ShapeName
from jaxgpt.benchmarks.measurement import Baseline, Measurement, measure_interleaved, versions_of
from jaxgpt.benchmarks.peers.torch_process import TorchProcess, require_torch
from jaxgpt.benchmarks.peers.torch_weights import gpt2_weights
from jaxgpt.config import configclass
from jaxgpt.errors import JaxgptError
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.scoring import Scorer
from jaxgpt.model.cost import num_matmul_parameters
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runtime.settings import RuntimeConfig, configure_runtime
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer

_CHOICES = 4
# Lengths of questions and choices, about those of HellaSwag.
_CONTEXT_TOKENS = (30, 120)
_CHOICE_TOKENS = (5, 40)
# Share of a log-likelihood that rounding may change.
_TOLERANCE = 1e-4

Pair = tuple[list[int], list[int]]


@configclass
class ScoringBenchmark:
    """Log-likelihoods of four choices for each question; GPT-2's arithmetic, random weights.

    Floor: the products that no way of scoring can leave out, at the rate of large square products:
    all layers for each token of a request, the head for each scored token.
    """

    shape: ShapeName = "gpt2-124m"
    """Sizes of the model."""
    num_questions: int = 8
    """Number of questions, with four choices each."""
    batch_size: int = 8
    """Rows per batch; those of jaxgpt have as many of the longest, and more of shorter ones."""
    against: Literal["nothing", "lm-eval"] = "nothing"
    """Side to compare with. lm-eval: the `hf` back-end of lm-evaluation-harness with the same
    weights and tokens, in a process of its own."""
    rounds: int = 3
    """Rounds of each side."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        if min(self.num_questions, self.batch_size, self.rounds) < 1:
            raise ValueError("every number must be at least 1")

    def run(self) -> Measurement:
        """Measure.

        Raises:
            ConfigError: torch, transformers or lm_eval is missing.
            JaxgptError: the sides find other log-likelihoods.
        """
        if self.against == "lm-eval":
            require_torch(compiles=False, packages=("torch", "transformers", "lm_eval"))
        configure_runtime(RuntimeConfig())
        shape = SHAPES[self.shape]
        model = gpt2_model(shape, "float32").build(shape.vocab_size)
        params = random_params(model)
        # The requests are tokens already: a tokenizer only has to be there.
        tokenizer = train_tokenizer(["abc"], TokenizerConfig(vocab_size=300))
        loaded = LoadedModel(model, params, tokenizer, single_device_mesh(), shape.sequence_length)
        pairs = make_pairs(self.num_questions, shape)
        ours = _Ours(Scorer(loaded, self.batch_size, silent=True), pairs)
        theirs = _Theirs(self.batch_size, shape, params, pairs) if self._compares else None
        try:
            return self._measure(ours, theirs, loaded)
        finally:
            if theirs is not None:
                theirs.process.close()

    @property
    def _compares(self) -> bool:
        return self.against != "nothing"

    def _measure(self, ours: "_Ours", theirs: "_Theirs | None", loaded: LoadedModel) -> Measurement:
        sides: dict[str, Callable[[], float]] = {"jaxgpt": ours.rate}
        if theirs is not None:
            sides[self.against] = theirs.rate
        # Programs are compiled, memory is touched.
        measure_interleaved(sides, 1)
        if theirs is not None:
            _check_equal(ours.found, theirs.found)
        rates = measure_interleaved(sides, self.rounds)
        value, spread = rates["jaxgpt"]
        baseline = None
        if theirs is not None:
            other = rates[self.against][0]
            baseline = Baseline(name="lm-eval, hf", value=other, ratio=value / other)
        packages = ["jax", "jaxlib", *(["torch", "transformers", "lm_eval"] if theirs else [])]
        return Measurement(
            measure="scoring",
            value=value,
            unit="requests/s",
            floor=matmul_rate("float32") * len(ours.pairs) / count_operations(loaded, ours.pairs),
            floor_is="products of all tokens, and of the head for scored ones",
            spread=spread,
            settings={
                "shape": self.shape,
                "questions": self.num_questions,
                "batch_size": self.batch_size,
                **describe_device(),
            },
            versions=versions_of(packages),
            against=baseline,
        )


def make_pairs(num_questions: int, shape: Shape) -> list[Pair]:
    """Return random tokens: a context for each question, with a continuation for each choice."""
    rng = np.random.default_rng(0)

    def draw(bounds: tuple[int, int]) -> list[int]:
        # A small model has room for a part of it.
        length = min(int(rng.integers(*bounds)), shape.sequence_length // 2)
        return rng.integers(0, shape.vocab_size, length).tolist()

    contexts = [draw(_CONTEXT_TOKENS) for _ in range(num_questions)]
    return [(context, draw(_CHOICE_TOKENS)) for context in contexts for _ in range(_CHOICES)]


def count_operations(loaded: LoadedModel, pairs: list[Pair]) -> float:
    """Return the operations of all matrix products that scoring needs, attention's left out."""
    config, vocab_size = loaded.model.config, loaded.model.vocab_size
    head = config.d_model * config.pad_vocab(vocab_size)
    layers = num_matmul_parameters(config, vocab_size) - head
    num_tokens = sum(len(context) + len(ids) - 1 for context, ids in pairs)
    num_scored = sum(len(ids) for _, ids in pairs)
    return 2.0 * (layers * num_tokens + head * num_scored)


class _Ours:
    """jaxgpt's side; `found` are the last log-likelihoods."""

    def __init__(self, scorer: Scorer, pairs: list[Pair]) -> None:
        self.found: list[float] = []
        self.pairs = pairs
        self._scorer = scorer

    def rate(self) -> float:
        start = time.perf_counter()
        scores = self._scorer.score_tokens(self.pairs)
        self.found = [score.log_likelihood for score in scores]
        return len(self.pairs) / (time.perf_counter() - start)


class _Theirs:
    """The harness's side."""

    def __init__(self, batch_size: int, shape: Shape, params: Any, pairs: list[Pair]) -> None:
        self.found: list[float] = []
        ids = np.array([token for pair in pairs for part in pair for token in part], np.int32)
        lengths = np.array([[len(part) for part in pair] for pair in pairs])
        weights = gpt2_weights(jax.tree.map(np.asarray, params), shape.vocab_size)
        self.process = TorchProcess(
            "score",
            weights | {"ids": ids, "lengths": lengths},
            shape=shape.gpt2_fields,
            settings={"batch_size": batch_size},
        )

    def rate(self) -> float:
        answer = self.process.ask()
        self.found = answer["log_likelihoods"]
        return len(self.found) / answer["seconds"]


def _check_equal(ours: list[float], theirs: list[float]) -> None:
    """Refuse log-likelihoods that differ by more than rounding.

    Raises:
        JaxgptError: they do.
    """
    if not np.allclose(ours, theirs, rtol=_TOLERANCE):
        worst = float(np.abs(np.array(ours) / np.array(theirs) - 1).max())
        raise JaxgptError(f"the sides find other log-likelihoods, by up to {worst:.1e} of them")
