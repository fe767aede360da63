"""The shape of Llama 3 70B: a run for hundreds of devices, planned and compiled without any.

    python -m jaxgpt.plan --config configs/llama_70b.py --vocab-size 128256 --num-devices 512

Rows of 8,192 tokens on 512 devices: weights split 32 x 8 ways, tokens 2 ways. docs/parallel.md has
the bytes per device as the compiler counts them.
"""

from pathlib import Path

from jaxgpt import TrainConfig, load_config, replace
from jaxgpt.data import BatchConfig
from jaxgpt.model import (
    FullRemat,
    GroupedQueryAttention,
    LanguageModelHead,
    RmsNorm,
    Rotary,
    Scanned,
    SwiGlu,
)
from jaxgpt.parallel import MeshConfig

base = load_config(Path(__file__).with_name("base.py"), TrainConfig)

config = replace(
    base,
    model=replace(
        base.model,
        num_layers=80,
        d_model=8192,
        position=Rotary(max_wavelength=500_000.0),
        attention=GroupedQueryAttention(num_heads=64, num_kv_heads=8, head_dim=128),
        feed_forward=SwiGlu(hidden=28_672),
        norm=RmsNorm(eps=1e-5),
        head=LanguageModelHead(tied=False),
        remat=FullRemat(),
        layers=Scanned(),
    ),
    batch=BatchConfig(sequence_length=8192, global_batch_size=256, num_micro_batches=8),
    schedule=replace(base.schedule, num_steps=500_000, peak_learning_rate=1.5e-4),
    mesh=MeshConfig(data=1, fsdp=32, context=2, tensor=8),
)
