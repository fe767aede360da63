"""The same tokens and width as `small_classic.py`, with what has been learned since GPT-2.

    python -m jaxgpt.train --config configs/small_modern.py --data data/small

Muon on the matrices, output projections and an untied head that start at zero, warm-up - stable -
decay, and Qwen 3's architecture: SwiGLU, rotary positions, RMSNorm, normalised queries and keys.
`docs/optimizer.md` says why, `docs/benchmarks/learning.md` how many tokens it saves.
"""

from pathlib import Path

from jaxgpt import TrainConfig, load_config, replace
from jaxgpt.model import (
    GroupedQueryAttention,
    Initialization,
    LanguageModelHead,
    RmsNorm,
    Rotary,
    SwiGlu,
)
from jaxgpt.training import Muon, WarmupStableDecay

classic = load_config(Path(__file__).with_name("small_classic.py"), TrainConfig)

config = replace(
    classic,
    model=replace(
        classic.model,
        position=Rotary(),
        attention=GroupedQueryAttention(num_heads=3, qk_norm=RmsNorm()),
        feed_forward=SwiGlu(),
        norm=RmsNorm(),
        head=LanguageModelHead(tied=False, zero_init=True),
        initialization=Initialization(zero_output=True),
    ),
    schedule=WarmupStableDecay(
        num_steps=977,
        peak_learning_rate=3e-3,
        warmup_share=0.02,
        decay_share=0.5,
        final_share=0.02,
    ),
    optimizer=Muon(),
)
