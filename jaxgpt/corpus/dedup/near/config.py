"""`NearDuplicatesConfig`: definition of near duplicates, and settings of the search."""

import re

from jaxgpt.config import configclass
from jaxgpt.corpus.dedup.near.minhash import NUM_PERMUTATIONS

_MAX_PERMUTATIONS = 1024


@configclass
class NearDuplicatesConfig:
    """Definition of near duplicates, and settings of the search."""

    enabled: bool = True
    """Removal of near duplicates; False keeps them."""
    threshold: float = 0.7
    """Least Jaccard similarity of two documents that counts as near duplication."""
    bands: str = "25x10"
    """MinHash bands x rows: two documents are compared with probability 1 - (1 -
    similarity^rows)^bands. BigCode uses 25x10, FineWeb 14x8, NeMo Curator 20x13."""
    ngram: int = 5
    """Words per shingle; characters, in scripts without spaces between words."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold = {self.threshold}; it must be above 0 and at most 1")
        if not 1 <= self.ngram <= 100:
            raise ValueError(f"ngram = {self.ngram}; it must be between 1 and 100")
        if not re.fullmatch(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}", self.bands):
            raise ValueError(f"bands = {self.bands!r}; it must be bands x rows, such as 25x10")
        if self.num_bands * self.num_rows > _MAX_PERMUTATIONS:
            raise ValueError(
                f"bands = {self.bands!r} needs {self.num_bands * self.num_rows} permutations; "
                f"at most {_MAX_PERMUTATIONS} are allowed"
            )

    @property
    def num_bands(self) -> int:
        """Bands of a signature."""
        return int(self.bands.split("x")[0])

    @property
    def num_rows(self) -> int:
        """Places of a signature in each band."""
        return int(self.bands.split("x")[1])

    @property
    def num_permutations(self) -> int:
        """Length of a signature: enough for the bands, and for a good estimate."""
        return max(NUM_PERMUTATIONS, self.num_bands * self.num_rows)
