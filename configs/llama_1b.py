"""The shape of Llama 3.2 1B: grouped-query attention, SwiGLU, RMSNorm, rotary positions.

    python -m jaxgpt.train --config configs/llama_1b.py --data data/corpus --run-dir runs/llama_1b

With that model's vocabulary of 128,256 it has 1.24 billion parameters; with a smaller one, fewer.
A micro-batch of 8 rows is meant for a GPU of 80 GB, of which XLA assigns 51 GB. A smaller GPU needs
more --batch.num-micro-batches, or --model.remat FullRemat, which computes every layer twice.
"""

from pathlib import Path

from jaxgpt import TrainConfig, load_config, replace
from jaxgpt.data import BatchConfig
from jaxgpt.model import GroupedQueryAttention, RmsNorm, Rotary, SwiGlu
from jaxgpt.training import WarmupStableDecay

base = load_config(Path(__file__).with_name("base.py"), TrainConfig)

config = replace(
    base,
    model=replace(
        base.model,
        num_layers=16,
        d_model=2048,
        position=Rotary(max_wavelength=500_000.0),
        attention=GroupedQueryAttention(num_heads=32, num_kv_heads=8, head_dim=64),
        feed_forward=SwiGlu(hidden=8192),
        norm=RmsNorm(eps=1e-5),
    ),
    batch=BatchConfig(sequence_length=2048, global_batch_size=256, num_micro_batches=32),
    schedule=WarmupStableDecay(num_steps=40_000, peak_learning_rate=4e-4),
)
