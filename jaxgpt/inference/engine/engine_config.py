"""`EngineConfig`: how large an engine is."""

from jaxgpt.config import configclass

# Larger chunks are hardly faster, and let decoding requests wait for longer.
_LARGEST_CHUNK = 256


@configclass
class EngineConfig:
    """Size of the engine that answers many requests at once."""

    num_slots: int = 8
    """Number of requests that are answered at once; further ones wait."""
    max_length: int | None = None
    """Most tokens of a prompt and its answer together; None: the context of training."""
    prefill_chunk: int | None = None
    """Number of prompt tokens that are read between two visits to the decoding requests; None: half
    of `max_length`, up to 256."""
    steps_per_visit: int = 4
    """Most tokens that a request draws before new requests are looked at."""
    max_waiting: int = 256
    """Most requests that wait for a slot; further ones are refused."""

    def __post_init__(self) -> None:
        for name in ("num_slots", "steps_per_visit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("max_length", "prefill_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or None, not {value}")
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting must be at least 0, not {self.max_waiting}")

    def chunk_of(self, max_length: int) -> int:
        """Return the number of prompt tokens that are read at once, in slots of `max_length`.

        At most half of a slot, so that prompts which begin alike can share what was read.
        """
        if self.prefill_chunk is not None:
            return self.prefill_chunk
        return max(1, min(_LARGEST_CHUNK, max_length // 2))
