"""Distillation: a small model learns from a larger one of the same tokenizer, on examples.

    python -m jaxgpt.finetune --config configs/distill.py --checkpoint runs/small \\
        --objective.teacher runs/large --data chats.jsonl

On text instead:

    python -m jaxgpt.finetune --config configs/continue.py --checkpoint runs/small \\
        --objective Distilled --objective.teacher runs/large --data data/text
"""

from jaxgpt import EvaluationConfig, FinetuneConfig
from jaxgpt.data import BatchConfig
from jaxgpt.finetuning import Distilled, ExamplesConfig
from jaxgpt.training import AdamW, Cosine

config = FinetuneConfig(
    objective=Distilled(temperature=2.0, share=0.5),
    data=ExamplesConfig(held_out_share=0.05),
    num_epochs=3.0,
    batch=BatchConfig(sequence_length=1024, global_batch_size=16),
    schedule=Cosine(peak_learning_rate=6e-5, warmup_share=0.03, final_share=0.1),
    optimizer=AdamW(weight_decay=0.0),
    evaluation=EvaluationConfig(
        max_tokens=None, prompts=("Who are you?", "What is the capital of France?")
    ),
)
