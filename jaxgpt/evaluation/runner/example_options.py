"""Options of `jaxgpt.eval` about the held-out examples of a run that was fine-tuned."""

from typing import Literal

from jaxgpt.config import configclass

# Scores that need packages of the extra `metrics`.
ExampleScore = Literal["chrf", "rouge", "n_grams"]


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
