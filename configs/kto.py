"""Learning from single answers that are good or bad, all weights.

    python -m jaxgpt.finetune --config configs/kto.py --checkpoint runs/sft --data judged.jsonl

Rows of the file have `prompt`, `completion` and `label`: true or false. Begin with a model that
answers already, as of configs/sft.py.
"""

from jaxgpt import EvaluationConfig, FinetuneConfig
from jaxgpt.data import BatchConfig
from jaxgpt.finetuning import ExamplesConfig, Kto
from jaxgpt.training import AdamW, Cosine

config = FinetuneConfig(
    objective=Kto(beta=0.1),
    data=ExamplesConfig(held_out_share=0.1),
    num_epochs=3.0,
    batch=BatchConfig(sequence_length=1024, global_batch_size=16),
    schedule=Cosine(peak_learning_rate=5e-6, warmup_share=0.1, final_share=0.1),
    optimizer=AdamW(weight_decay=0.0),
    evaluation=EvaluationConfig(
        max_tokens=None, prompts=("Who are you?", "What is the capital of France?")
    ),
)
