"""GPT-2's and nanoGPT's recipe in small: what `small_modern.py` is compared with.

    python tools/build_dataset.py --input CORPUS --output data/small --tokenizer.vocab-size 2048
    python -m jaxgpt.train --config configs/small_classic.py --data data/small

4 layers, width 192, context 256; 2.2 million parameters with 2,048 pieces. Learned positions,
LayerNorm, GELU, a tied head, AdamW, a cosine. 977 steps of 2,048 tokens are 2 million tokens.
"""

from jaxgpt import EvaluationConfig, TrainConfig
from jaxgpt.checkpoints import CheckpointConfig
from jaxgpt.data import BatchConfig
from jaxgpt.model import (
    Gelu,
    GptConfig,
    GroupedQueryAttention,
    LanguageModelHead,
    LayerNorm,
    Learned,
)
from jaxgpt.training import AdamW, Cosine

config = TrainConfig(
    model=GptConfig(
        num_layers=4,
        d_model=192,
        position=Learned(max_length=256),
        attention=GroupedQueryAttention(num_heads=3),
        feed_forward=Gelu(),
        norm=LayerNorm(use_bias=False),
        head=LanguageModelHead(tied=True),
        compute_dtype="bfloat16",
    ),
    batch=BatchConfig(sequence_length=256, global_batch_size=8),
    schedule=Cosine(num_steps=977, peak_learning_rate=3e-3, warmup_share=0.05, final_share=0.1),
    optimizer=AdamW(),
    evaluation=EvaluationConfig(max_tokens=None, batch_size=16),
    checkpoint=CheckpointConfig(keep_latest=1),
)
