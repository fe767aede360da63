"""GPT-2 large, 770M parameters: `base.py`, deeper and wider, layers compiled as a loop.

python -m jaxgpt.train --config configs/large.py --data data/corpus --run-dir runs/large
"""

from pathlib import Path

from jaxgpt import TrainConfig, load_config, replace
from jaxgpt.model import Gelu, Scanned

base = load_config(Path(__file__).with_name("base.py"), TrainConfig)

config = replace(
    base,
    model=replace(
        base.model,
        num_layers=36,
        d_model=1280,
        attention=replace(base.model.attention, num_heads=20, num_kv_heads=20),
        feed_forward=Gelu(hidden=5120),
        layers=Scanned(),
    ),
    batch=replace(base.batch, num_micro_batches=32),
    schedule=replace(base.schedule, peak_learning_rate=2.5e-4),
)
