"""Continuing text: drawing a token, decoding with a cache, and the text around both."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.inference.chat.settings import ChatSettings
    from jaxgpt.inference.decode import Decoder
    from jaxgpt.inference.decoding_mesh import DecodingMesh
    from jaxgpt.inference.engine.drafting import Speculation
    from jaxgpt.inference.engine.drawing.request_sampling import RequestSampling
    from jaxgpt.inference.engine.engine import Engine
    from jaxgpt.inference.engine.engine_config import EngineConfig
    from jaxgpt.inference.engine.speculation.draft_model import DraftModel
    from jaxgpt.inference.engine.speculation.ngram_lookup import NgramLookup
    from jaxgpt.inference.precision import Precision
    from jaxgpt.inference.sampling import SamplingConfig, sample
    from jaxgpt.inference.text_generation import continue_texts, make_text_decoder, stream_text
else:
    __getattr__, __dir__ = lazy_imports(__name__)
