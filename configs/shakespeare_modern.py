"""The same text, tokens and size as `shakespeare_char.py`, with what has been learned since GPT-2.

    python -m jaxgpt.train --config configs/shakespeare_modern.py --data data/shakespeare_char

Rotary positions, RMSNorm, normalised queries and keys, squared ReLU, an untied head that starts at
zero, output projections that start at zero, Muon on the matrices.

The other modern configs have SwiGLU now. This one keeps squared ReLU, with which the comparison
with nanoGPT was measured, and so cannot be exported to other programs.
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

classic = load_config(Path(__file__).with_name("shakespeare_char.py"), TrainConfig)

config = replace(
    classic,
    model=replace(
        classic.model,
        position=Rotary(),
        attention=GroupedQueryAttention(num_heads=4, qk_norm=RmsNorm()),
        feed_forward=Relu2(),
        norm=RmsNorm(),
        head=LanguageModelHead(tied=False, zero_init=True),
        initialization=Initialization(zero_output=True),
    ),
    optimizer=Muon(),
    schedule=WarmupStableDecay(
        num_steps=2000,
        peak_learning_rate=5e-3,
        warmup_share=0.05,
        decay_share=0.5,
        final_share=0.02,
    ),
)
