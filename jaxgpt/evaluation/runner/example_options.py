"""Options of `jaxgpt.eval` about the held-out examples of a run that was fine-tuned."""

from collections.abc import Sequence
from typing import Literal

from jaxgpt.config import configclass
from jaxgpt.errors import UsageError
from jaxgpt.names.packages import import_package, install_advice

# Scores that need packages of the extra `metrics`.
ExampleScore = Literal["chrf", "rouge", "n_grams"]
_PACKAGES = {"chrf": "sacrebleu", "rouge": "rouge_score", "n_grams": "sklearn"}


@configclass
class ExampleOptions:
    """Scores of single held-out examples."""

    examples: int | None = None
    """Number of held-out examples to score one by one: questions are answered, pairs are ranked,
    texts are classified; None: none."""
    example_scores: tuple[ExampleScore, ...] = ()
    """Further scores of the examples. chrf, rouge: of answers; n_grams: of logistic regression on
    words and word pairs, next to a classifier."""
    answer_tokens: int = 128
    """Most tokens of an answer that is written."""

    def __post_init__(self) -> None:
        for name in ("examples", "answer_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.example_scores and self.examples is None:
            raise ValueError("--example-scores needs --examples N, the number of examples to score")

    def check_scores(self, objective: str, allowed: Sequence[ExampleScore]) -> None:
        """Refuse scores that an objective does not have, or whose package is missing.

        Args:
            objective: name of the objective.
            allowed: the scores that it has.

        Raises:
            UsageError: one is not among those that are allowed.
            ConfigError: a package is missing.
        """
        for name in self.example_scores:
            if name not in allowed:
                raise UsageError(
                    f"--example-scores {name} is no score of {objective}; "
                    f"allowed: {', '.join(allowed) or 'none'}"
                )
            import_package(_PACKAGES[name], f"--example-scores {name}", install_advice("metrics"))
