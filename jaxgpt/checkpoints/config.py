"""Settings of a run's checkpoints."""

from jaxgpt.config import configclass


@configclass
class CheckpointConfig:
    """Interval of saves, and checkpoints to keep."""

    every_steps: int | None = None
    """Steps between checkpoints; None: a tenth of the run."""
    keep_latest: int = 2
    """Number of newest checkpoints to keep."""
    keep_every_steps: int | None = None
    """Steps between checkpoints that are kept for good; None: no such checkpoints."""
    keep_best: int = 1
    """Number of checkpoints with the lowest evaluation loss to keep as well."""
    max_failed_saves: int = 3
    """Number of failed saves in a row after which the run ends with an error."""

    def __post_init__(self) -> None:
        least = {
            "every_steps": 1,
            "keep_latest": 1,
            "keep_every_steps": 1,
            "keep_best": 0,
            "max_failed_saves": 1,
        }
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ValueError(f"{name} = {value}: must be at least {minimum}")
