"""A small mixture of experts."""

from jaxgpt.data.loader import BatchConfig
from jaxgpt.experiment import EvaluationConfig, TrainConfig
from jaxgpt.model.attention import GroupedQueryAttention
from jaxgpt.model.dispatch import Dropless
from jaxgpt.model.feed_forward import SwiGlu
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layers import Initialization
from jaxgpt.model.mixture_of_experts import MixtureOfExperts
from jaxgpt.model.norms import RmsNorm
from jaxgpt.training.optimizer import Muon
from jaxgpt.training.schedule import WarmupStableDecay

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
