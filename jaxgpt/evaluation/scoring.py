"""Log-likelihoods of text: of continuations after their contexts, and of whole documents."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.token_scores import TokenScorer
from jaxgpt.evaluation.windows import Window, document_windows, encode_pair, pair_windows


class Request(NamedTuple):
    """A question to a language model: how probable is a continuation?

    Attributes:
        context: text before the continuation; may be empty.
        continuation: text to score, with the space that separates it from the context.
    """

    context: str
    continuation: str


class Score(NamedTuple):
    """Answer to a request, or score of a document.

    Attributes:
        log_likelihood: sum of the log-probabilities of the tokens, in nats.
        is_greedy: whether each token is the most probable one at its place.
        num_tokens: number of scored tokens.
        num_cut: number of tokens of the context that were dropped because they do not fit.
        log_probs_N: log-probability of each token, float32.
    """

    log_likelihood: float
    is_greedy: bool
    num_tokens: int
    num_cut: int
    log_probs_N: np.ndarray


class Scorer:
    """Scores text with one model.

    Args:
        loaded: the model.
        batch_size: rows per batch; see `TokenScorer`.
        add_bos: whether contexts begin with the BOS token, as documents do in training.
        silent: show no progress.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        batch_size: int = 32,
        add_bos: bool = True,
        silent: bool = False,
    ) -> None:
        self.loaded = loaded
        self.add_bos = add_bos
        self.silent = silent
        self._tokens = TokenScorer(loaded, batch_size, silent)

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Return the score of each request, in order.

        Raises:
            ValueError: a continuation is empty.
            BadInputError: a text has a lone surrogate.
            DivergedError: the model's scores are not finite.
        """
        pairs = [encode_pair(self.loaded.tokenizer, *request, self.add_bos) for request in requests]
        return self.score_tokens(pairs)

    def score_tokens(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """Return the scores of continuations that are tokens already.

        Args:
            pairs: ids of a context and of its continuation, neither empty.
        """
        context_length = self.loaded.context_length
        return self._score([pair_windows(*pair, context_length) for pair in pairs])

    def score_documents(self, texts: Sequence[str]) -> list[Score]:
        """Return the score of each text as a whole; its first token is scored from BOS.

        A text longer than the context is scored in windows, each token once. An empty text has
        no tokens and a log-likelihood of 0.
        """
        tokenizer, context_length = self.loaded.tokenizer, self.loaded.context_length
        cut = [document_windows(ids, tokenizer.bos_id, context_length)
               for ids in tokenizer.encode_batch(texts)]  # fmt: skip
        return self._score([(windows, 0) for windows in cut])

    def _score(self, requests: Sequence[tuple[list[Window], int]]) -> list[Score]:
        """Score windows, and join those of one request, which are given with what was cut."""
        found = iter(self._tokens.score([window for windows, _ in requests for window in windows]))
        scores = []
        for windows, num_cut in requests:
            parts = list(itertools.islice(found, len(windows)))
            log_probs_N = np.concatenate([[], *(part.log_probs_N for part in parts)])
            scores.append(
                Score(
                    log_likelihood=float(log_probs_N.sum()),
                    is_greedy=all(bool(part.greedy_N.all()) for part in parts),
                    num_tokens=len(log_probs_N),
                    num_cut=num_cut,
                    log_probs_N=log_probs_N.astype(np.float32),
                )
            )
        return scores
