"""CommonsenseQA (Talmor et al. 2019, arXiv:1811.00937); the fields are those of ARC.

Its choices are scored as texts: the score is not that of prompts which list them with letters.
"""

from jaxgpt.config import configclass
from jaxgpt.evaluation.tasks.arc import Arc


@configclass
class CommonsenseQa(Arc):
    """Question of common sense; rows have `query`, `choices`, `gold`, or the data set's fields."""
