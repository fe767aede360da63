"""The quickstart's model: minutes on two CPU cores.

    python -m jaxgpt.train --config configs/quickstart.py --data data/quickstart

Qwen 3's architecture, so that other programs read the model (`docs/export.md`): SwiGLU, rotary
positions, RMSNorm, normalised queries and keys, no biases. A head of its own and output projections
that start at zero, Muon on the matrices, warm-up - stable - decay.
"""

from jaxgpt import EvaluationConfig, TrainConfig
from jaxgpt.data import BatchConfig
from jaxgpt.model import (
    GptConfig,
    GroupedQueryAttention,
    Initialization,
    LanguageModelHead,
    RmsNorm,
    SwiGlu,
)
from jaxgpt.training import Muon, WarmupStableDecay

config = TrainConfig(
    model=GptConfig(
        num_layers=4,
        d_model=192,
        attention=GroupedQueryAttention(num_heads=3, qk_norm=RmsNorm()),
        feed_forward=SwiGlu(),
        head=LanguageModelHead(tied=False, zero_init=True),
        initialization=Initialization(zero_output=True),
        compute_dtype="bfloat16",
    ),
    batch=BatchConfig(sequence_length=256, global_batch_size=16),
    schedule=WarmupStableDecay(
        num_steps=400,
        peak_learning_rate=6e-3,
        warmup_share=0.02,
        decay_share=0.5,
        final_share=0.02,
    ),
    optimizer=Muon(),
    evaluation=EvaluationConfig(
        every_steps=80,  # At every second save, so that the best of them can be taken.
        max_tokens=None,
        prompts=("def read(self", "import os"),
        sample_tokens=80,
    ),
)
