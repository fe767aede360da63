"""Evaluation of a model: loss on whole splits (perplexity.py), a baseline (ngram_baseline.py)."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.evaluation.ngram_baseline import WittenBellModel
    from jaxgpt.evaluation.objective import FrozenModel, NextToken, Objective
    from jaxgpt.evaluation.perplexity import Perplexity, measure_perplexity
else:
    __getattr__, __dir__ = lazy_imports(__name__)
