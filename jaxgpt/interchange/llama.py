"""Llama 2 and 3: grouped queries, rotary positions, SwiGLU, RMSNorm, no biases."""

from jaxgpt.interchange import decoder
from jaxgpt.interchange.architecture import Architecture
from jaxgpt.model.gpt import GptConfig

LLAMA = Architecture(
    name="LlamaForCausalLM",
    model_type="llama",
    template=GptConfig(),
    fields=(*decoder.FIELDS, decoder.HEAD_DIM, decoder.EPSILON, decoder.UNTIED),
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    weights=(*decoder.WEIGHTS, decoder.FEED_FORWARD_NORM),
)
