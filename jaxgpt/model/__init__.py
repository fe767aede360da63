"""The model: pure functions of (parameters, tokens). Knows no optimiser, no data, no text.

Start reading at `gpt.py`; every other file holds one part that a config can choose or replace.
"""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.model.attention.attention import Attention, AttentionContext, GroupedQueryAttention
    from jaxgpt.model.attention.cached_blocks import CachedBlocks
    from jaxgpt.model.attention.chunked_prefill import ChunkedPrefill
    from jaxgpt.model.attention.cpu import CpuBlockwise
    from jaxgpt.model.attention.gpu import Cudnn, Pallas
    from jaxgpt.model.attention.int8_cache import AsFromInt8Cache
    from jaxgpt.model.attention.kernel import AttentionInputs, AttentionKernel
    from jaxgpt.model.attention.kernels import Fastest
    from jaxgpt.model.attention.kv_cache import KVCache
    from jaxgpt.model.attention.masks import AttentionMask
    from jaxgpt.model.attention.one_query import OneQuery
    from jaxgpt.model.attention.reference import Reference, SavedProbabilities
    from jaxgpt.model.attention.ring import Ring
    from jaxgpt.model.cost import (
        abstract_params,
        flops_per_token,
        kv_bytes_per_token,
        num_active_parameters,
        num_matmul_parameters,
        num_parameters,
    )
    from jaxgpt.model.gpt import Gpt, GptConfig, make_cache
    from jaxgpt.model.heads import (
        ClassificationHead,
        Head,
        LanguageModelHead,
        TokenClassificationHead,
    )
    from jaxgpt.model.layer_stack import LayerStack, Scanned, Unrolled, UnrolledPython
    from jaxgpt.model.layers.adapters import Adapter, Dora, Lora, LowRank, NoAdapter
    from jaxgpt.model.layers.feed_forward import (
        Activation,
        FeedForward,
        GatedFeedForward,
        GeGlu,
        Gelu,
        PlainFeedForward,
        Relu2,
        SwiGlu,
    )
    from jaxgpt.model.layers.norms import LayerNorm, Norm, RmsNorm, Sandwich
    from jaxgpt.model.layers.positions import Learned, NoPosition, Position, Rotary, Sinusoidal
    from jaxgpt.model.layers.projection import Dropout, Initialization, LayerSettings, Projection
    from jaxgpt.model.layers.rope_scaling import LinearScaling, Llama3, NoScaling, RopeScaling, Yarn
    from jaxgpt.model.moe.dispatch import Capacity, Dispatch, Dropless
    from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
    from jaxgpt.model.moe.router import Gates, NormalizedGates, SoftmaxGates
    from jaxgpt.model.moe.routing_stats import ROUTING
    from jaxgpt.model.pipeline import Pipelined
    from jaxgpt.model.remat import FullRemat, NoRemat, Remat, SaveDots
else:
    __getattr__, __dir__ = lazy_imports(__name__)
