"""GPT-2 medium, 350M parameters: `base.py`, deeper and wider.

python -m jaxgpt.train --config configs/medium.py --data data/corpus --run-dir runs/medium
"""

from pathlib import Path

from jaxgpt import TrainConfig, load_config, replace
from jaxgpt.model import Gelu

base = load_config(Path(__file__).with_name("base.py"), TrainConfig)

config = replace(
    base,
    model=replace(
        base.model,
        num_layers=24,
        d_model=1024,
        attention=replace(base.model.attention, num_heads=16, num_kv_heads=16),
        feed_forward=Gelu(hidden=4096),
    ),
    batch=replace(base.batch, num_micro_batches=16),
    schedule=replace(base.schedule, peak_learning_rate=3e-4),
)
