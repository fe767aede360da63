"""How good a model is: loss on whole splits (perplexity.py), a baseline to beat (ngram.py)."""

from typing import TYPE_CHECKING

from jaxgpt.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.evaluation.ngram import WittenBellModel
    from jaxgpt.evaluation.perplexity import Perplexity, measure_perplexity
else:
    __getattr__, __dir__ = lazy_imports(__name__)
