"""`EngineConfig`: how large an engine is."""

from jaxgpt.config import configclass


@configclass
class EngineConfig:
    """Size of the engine that answers many requests at once."""

    num_slots: int = 8
    """Number of requests that are answered at once; further ones wait."""
    max_length: int | None = None
    """Most tokens of a prompt and its answer together; None: the context of training."""
    prefill_chunk: int = 128
    """Number of prompt tokens that are read between two visits to the decoding requests."""
    steps_per_visit: int = 4
    """Most tokens that a request draws before new requests are looked at."""
    max_waiting: int = 256
    """Most requests that wait for a slot; further ones are refused."""

    def __post_init__(self) -> None:
        for name in ("num_slots", "prefill_chunk", "steps_per_visit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be at least 1 or None, not {self.max_length}")
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting must be at least 0, not {self.max_waiting}")
