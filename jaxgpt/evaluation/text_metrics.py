"""Metrics of texts against references: BLEU and chrF by sacrebleu, ROUGE by rouge-score.

The packages (extra `metrics`) are imported only when their metrics are asked for.
"""

from collections.abc import Sequence
from typing import Any

from jaxgpt.names.packages import import_package, install_advice

_DRAWS = 1000
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def translation_scores(texts: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Return BLEU and chrF of a corpus, 0 to 100, with 95% intervals and signatures.

    The signature names the version and the settings that a figure depends on. The intervals are by
    1000 bootstrap draws of sentences (Koehn 2004); `value` is that of all sentences.

    Raises:
        ConfigError: the package is missing.
    """
    metrics = import_package("sacrebleu.metrics", "BLEU and chrF", install_advice("metrics"))
    return {
        "bleu": _corpus_score(metrics.BLEU(), texts, references),
        "chrf": _corpus_score(metrics.CHRF(), texts, references),
    }


def _corpus_score(metric: Any, texts: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    found = metric.corpus_score(list(texts), [list(references)], n_bootstrap=_DRAWS)
    value = metric.corpus_score(list(texts), [list(references)]).score
    return {
        "value": value,
        "low": found._mean - found._ci,
        "high": found._mean + found._ci,
        "n": len(texts),
        "signature": str(metric.get_signature()),
    }


def rouge_scores(text: str, reference: str, use_stemmer: bool = True) -> dict[str, float]:
    """Return the F-measures of ROUGE-1, -2, -L and -Lsum of one text, 0 to 1.

    Raises:
        ConfigError: the package is missing.
    """
    rouge = import_package("rouge_score.rouge_scorer", "ROUGE", install_advice("metrics"))
    scores = rouge.RougeScorer(list(ROUGE), use_stemmer=use_stemmer).score(reference, text)
    return {name: scores[name].fmeasure for name in ROUGE}
