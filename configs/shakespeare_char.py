"""nanoGPT's CPU setting: a model of 0.8M parameters that learns Shakespeare letter by letter.

    python tools/build_dataset.py --input tinyshakespeare.txt --output data/shakespeare_char \
        --config configs/dataset_char.py
    python -m jaxgpt.train --config configs/shakespeare_char.py --data data/shakespeare_char

4 layers, 4 heads, width 128, context 64, batch 12, 2,000 steps, no dropout. nanoGPT's README gives
a validation loss of 1.88 on a sample of the last tenth of the text.
"""

from jaxgpt import EvaluationConfig, TrainConfig
from jaxgpt.data import BatchConfig, DataConfig
from jaxgpt.model import (
    Gelu,
    GptConfig,
    GroupedQueryAttention,
    LanguageModelHead,
    LayerNorm,
    Learned,
)
from jaxgpt.training import AdamW, Cosine

config = TrainConfig(
    model=GptConfig(
        num_layers=4,
        d_model=128,
        position=Learned(max_length=64),
        attention=GroupedQueryAttention(num_heads=4),
        feed_forward=Gelu(exact=True),
        norm=LayerNorm(use_bias=False),
        head=LanguageModelHead(tied=True),
    ),
    data=DataConfig(mask_documents=False),
    batch=BatchConfig(sequence_length=64, global_batch_size=12),
    schedule=Cosine(num_steps=2000, peak_learning_rate=1e-3, warmup_share=0.05, final_share=0.1),
    optimizer=AdamW(b2=0.99),
    evaluation=EvaluationConfig(max_tokens=None, batch_size=120, every_steps=500),
)
