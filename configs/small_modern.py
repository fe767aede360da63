"""The same tokens and width as `small_classic.py`, with what has been learned since GPT-2.

    python -m jaxgpt.train --config configs/small_modern.py --data data/small

Muon on the matrices, normalised queries and keys, squared ReLU, output projections and an untied
head that start at zero, capped logits, warm-up - stable - decay; rotary positions and RMSNorm.
`docs/training.md` says why, `docs/benchmarks/learning.md` how many tokens it saves.
"""

from pathlib import Path

from jaxgpt import TrainConfig, load_config, replace
from jaxgpt.model import (
    GroupedQueryAttention,
    Initialization,
    LanguageModelHead,
    Relu2,
    RmsNorm,
    Rotary,
)
from jaxgpt.training import Muon, WarmupStableDecay

classic = load_config(Path(__file__).with_name("small_classic.py"), TrainConfig)

config = replace(
    classic,
    model=replace(
        classic.model,
        position=Rotary(),
        attention=GroupedQueryAttention(num_heads=3, qk_norm=RmsNorm()),
        feed_forward=Relu2(),
        norm=RmsNorm(),
        head=LanguageModelHead(tied=False, zero_init=True, soft_cap=15.0),
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
