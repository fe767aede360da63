"""The models that measures run on: nanoGPT's arithmetic in several sizes."""

from typing import Literal, get_args

from jaxgpt.config import configclass
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import Dtype, GptConfig
from jaxgpt.model.layers.feed_forward import Gelu
from jaxgpt.model.layers.norms import LayerNorm
from jaxgpt.model.layers.positions import Learned

ShapeName = Literal["tiny", "small-10m", "nanogpt-cpu", "gpt2-124m", "gpt2-350m", "gpt-1.3b"]


@configclass
class Shape:
    """The sizes of a model and of the batches that it is trained on."""

    num_layers: int
    """Number of blocks."""
    d_model: int
    """Width of the residual stream."""
    num_heads: int
    """Heads, each d_model / num_heads wide."""
    sequence_length: int
    """Tokens per row; the model has as many positions."""
    batch_size: int
    """Rows per step."""
    vocab_size: int
    """Vocabulary size."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a batch."""
        return self.batch_size * self.sequence_length

    @property
    def gpt2_fields(self) -> dict[str, int]:
        """Return these sizes as transformers' `GPT2Config` names them."""
        return {
            "n_layer": self.num_layers,
            "n_embd": self.d_model,
            "n_head": self.num_heads,
            "n_positions": self.sequence_length,
            "vocab_size": self.vocab_size,
        }

    def model(self, dtype: Dtype) -> GptConfig:
        """Pre-norm blocks, LayerNorm without biases, exact GELU, learned positions, tied head."""
        return GptConfig(
            num_layers=self.num_layers,
            d_model=self.d_model,
            position=Learned(max_length=self.sequence_length),
            attention=GroupedQueryAttention(num_heads=self.num_heads),
            feed_forward=Gelu(exact=True),
            norm=LayerNorm(use_bias=False),
            compute_dtype=dtype,
        )


def _shape(layers: int, width: int, heads: int, length: int, rows: int, vocab: int) -> Shape:
    return Shape(
        num_layers=layers,
        d_model=width,
        num_heads=heads,
        sequence_length=length,
        batch_size=rows,
        vocab_size=vocab,
    )


# "tiny" is for a look at whether a measure runs. The batches are those of a CPU but for the last
# two models, which are for a GPU.
SHAPES: dict[ShapeName, Shape] = {
    "tiny": _shape(2, 32, 2, 32, 4, 65),
    "small-10m": _shape(6, 320, 5, 512, 4, 8192),
    "nanogpt-cpu": _shape(6, 384, 6, 256, 16, 65),
    "gpt2-124m": _shape(12, 768, 12, 256, 2, 50_304),
    "gpt2-350m": _shape(24, 1024, 16, 1024, 32, 50_304),
    "gpt-1.3b": _shape(24, 2048, 16, 2048, 8, 50_304),
}
assert set(SHAPES) == set(get_args(ShapeName))
