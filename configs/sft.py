"""Supervised fine-tuning of all weights: a trained model learns to answer, from examples.

    python -m jaxgpt.finetune --config configs/sft.py --checkpoint runs/base --data chats.jsonl

Rows are as long as those of the base, or 1,024 tokens if that is less, and hold several examples
each. The learning rate is a tenth of pretraining's; three passes over the examples.
"""

from jaxgpt import EvaluationConfig, FinetuneConfig
from jaxgpt.data import BatchConfig
from jaxgpt.finetuning import ExamplesConfig, Supervised
from jaxgpt.training import AdamW, Cosine

config = FinetuneConfig(
    objective=Supervised(),
    data=ExamplesConfig(held_out_share=0.05),
    num_epochs=3.0,
    batch=BatchConfig(sequence_length=1024, global_batch_size=16),
    schedule=Cosine(peak_learning_rate=6e-5, warmup_share=0.03, final_share=0.1),
    optimizer=AdamW(weight_decay=0.0),
    evaluation=EvaluationConfig(
        max_tokens=None, prompts=("Who are you?", "What is the capital of France?")
    ),
)
