"""The quickstart's model: minutes on two CPU cores.

    python -m jaxgpt.train --config configs/quickstart.py --data data/quickstart

Rotary positions, RMSNorm, normalised queries and keys, squared ReLU, an untied head that starts at
zero, Muon on the matrices, warm-up - stable - decay.
"""

from jaxgpt.data.loader import BatchConfig
from jaxgpt.experiment import EvaluationConfig, TrainConfig
from jaxgpt.model.attention import GroupedQueryAttention
from jaxgpt.model.feed_forward import Relu2
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layers import Initialization
from jaxgpt.model.norms import RmsNorm
from jaxgpt.training.optimizer import Muon
from jaxgpt.training.schedule import WarmupStableDecay

config = TrainConfig(
    model=GptConfig(
        num_layers=4,
        d_model=192,
        attention=GroupedQueryAttention(num_heads=3, qk_norm=RmsNorm()),
        feed_forward=Relu2(),
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
