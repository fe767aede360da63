"""A small mixture of experts: 8 of them, of which each token goes through 2.

    python -m jaxgpt.train --config configs/mixture_of_experts.py --data data/quickstart

The model of `quickstart.py` with SwiGLU experts: at 4,096 pieces 6,889,664 parameters, 3,350,720 of
them for each token. The dense model for comparison is the same with
`feed_forward=SwiGlu(hidden=512)` instead: 3,344,576 parameters, all for each token.

Validation bits per byte (75,348 tokens) on `quickstart_dataset.py`, 2,048 tokens a step, one seed:

    step                100      200      300
    experts           1.9368   1.7440   1.5918
    dense             1.9548   1.7382   1.5940

So over these 614,400 tokens twice the parameters gain nothing that one seed could show: experts pay
off when there is more text than a dense model of their cost can take in. At the end `routing.load`
lay between 0.89 and 1.16, `max_load` at 1.5. A step took 1.5 times as long as a dense one, since
Muon orthogonalises 8 times as many matrices, and 1.03 times with AdamW (medians of 12 steps of
each, taken in turn, `layers=Scanned()`). All on two processor cores that had much else to do, jax
0.10.2, bfloat16, 2026-11-25.
"""

from jaxgpt import EvaluationConfig, TrainConfig
from jaxgpt.data import BatchConfig
from jaxgpt.model import (
    Dropless,
    GptConfig,
    GroupedQueryAttention,
    Initialization,
    LanguageModelHead,
    MixtureOfExperts,
    RmsNorm,
    SwiGlu,
)
from jaxgpt.training import Muon, WarmupStableDecay

config = TrainConfig(
    model=GptConfig(
        num_layers=4,
        d_model=192,
        attention=GroupedQueryAttention(num_heads=3, qk_norm=RmsNorm()),
        feed_forward=MixtureOfExperts(
            num_experts=8,
            num_active=2,
            expert=SwiGlu(hidden=256),
            dispatch=Dropless(),
            load_balance=0.01,
            router_z_loss=1e-3,
        ),
        head=LanguageModelHead(tied=False, zero_init=True),
        initialization=Initialization(zero_output=True),
        compute_dtype="bfloat16",
    ),
    batch=BatchConfig(sequence_length=256, global_batch_size=8),
    schedule=WarmupStableDecay(
        num_steps=300,
        peak_learning_rate=6e-3,
        warmup_share=0.02,
        decay_share=0.5,
        final_share=0.02,
    ),
    optimizer=Muon(),
    evaluation=EvaluationConfig(every_steps=100, max_tokens=None),
)
