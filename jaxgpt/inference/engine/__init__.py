"""Many requests at once over one model: continuous batching in the slots of one cache."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.inference.engine.drawing.request_sampling import RequestSampling
    from jaxgpt.inference.engine.engine import Engine
    from jaxgpt.inference.engine.engine_config import EngineConfig
    from jaxgpt.inference.engine.request import (
        Progress,
        QueueFullError,
        Request,
        TokenConstraint,
        TokenScore,
    )
    from jaxgpt.inference.engine.slots.adapters import DecoderAdapter
else:
    __getattr__, __dir__ = lazy_imports(__name__)
