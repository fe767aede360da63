"""`NewText`: the data of a run that continues on new text and replays a part of the old."""

from collections.abc import Sequence

from jaxgpt.config import configclass
from jaxgpt.data.loader import DataConfig, WeightedDataset


@configclass
class NewText:
    """New text to continue on, and the share of the old text that is read with it."""

    datasets: tuple[WeightedDataset, ...] = ()
    """Datasets of new text, made with the checkpoint's tokenizer."""
    replay_share: float = 0.1
    """Share of the rows that are drawn from the old text; 0 for none."""
    replayed: tuple[WeightedDataset, ...] = ()
    """Datasets of old text; (): those that the checkpoint's run was trained on."""
    mask_documents: bool = True
    """Attention and positions within each document; False lets them cross documents (GPT-2)."""

    def __post_init__(self) -> None:
        if not 0 <= self.replay_share < 1:
            raise ValueError(f"replay_share = {self.replay_share}; it must lie in [0, 1)")

    def mixture(self) -> DataConfig:
        """Return all datasets, the new ones first; the old ones have `replay_share` together."""
        new = _scaled(self.datasets, 1 - self.replay_share)
        old = _scaled(self.replayed, self.replay_share) if self.replay_share else ()
        return DataConfig(datasets=(*new, *old), mask_documents=self.mask_documents)


def _scaled(datasets: Sequence[WeightedDataset], share: float) -> tuple[WeightedDataset, ...]:
    """Return the datasets with weights that add up to a share."""
    total = sum(each.weight for each in datasets)
    return tuple(
        WeightedDataset(path=each.path, weight=share * (each.weight / total)) for each in datasets
    )
