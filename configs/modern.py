"""GPT-2 small's width and depth, with what has been learned since: Qwen 3's architecture, and Muon.

    python -m jaxgpt.train --config configs/modern.py --data data/corpus --run-dir runs/modern

SwiGLU, rotary positions, RMSNorm, normalised queries and keys, no biases; transformers, vLLM and
llama.cpp have it (`docs/export.md`). As in `small_modern.py`, output projections and a head of its
own start at zero, Muon trains the matrices, and the rate decays in the second half. The blocks have
as many parameters as those of `base.py`. A head of its own is a second table: 124M parameters with
25,472 ids, 162M with GPT-2's 50,257. The peak rate has not been tuned at this size.
"""

from pathlib import Path

from jaxgpt import TrainConfig, load_config, replace
from jaxgpt.model import (
    GroupedQueryAttention,
    Initialization,
    LanguageModelHead,
    RmsNorm,
    SwiGlu,
)
from jaxgpt.training import Muon, WarmupStableDecay

base = load_config(Path(__file__).with_name("base.py"), TrainConfig)

config = replace(
    base,
    model=replace(
        base.model,
        attention=GroupedQueryAttention(num_heads=12, qk_norm=RmsNorm()),
        feed_forward=SwiGlu(),
        norm=RmsNorm(),
        head=LanguageModelHead(tied=False, zero_init=True),
        initialization=Initialization(zero_output=True),
    ),
    schedule=WarmupStableDecay(
        num_steps=19_073,
        peak_learning_rate=3e-3,
        warmup_share=0.02,
        decay_share=0.5,
        final_share=0.02,
    ),
    optimizer=Muon(),
)
