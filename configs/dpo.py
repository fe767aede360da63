"""Learning from preferences, all weights: of two answers to one prompt, the first is preferred.

    python -m jaxgpt.finetune --config configs/dpo.py --checkpoint runs/sft --data pairs.jsonl

Rows of the file have `prompt`, `chosen` and `rejected`. Begin with a model that answers already, as
of configs/sft.py. In place of Dpo, `jaxgpt.finetuning` has Ipo, and Orpo, which needs no reference
and can begin with a base; Kto is in configs/kto.py. The learning rate is a hundredth of
pretraining's: with larger ones both answers soon become unlikely.
"""

from jaxgpt import EvaluationConfig, FinetuneConfig
from jaxgpt.data import BatchConfig
from jaxgpt.finetuning import Dpo, ExamplesConfig
from jaxgpt.training import AdamW, Cosine

config = FinetuneConfig(
    objective=Dpo(beta=0.1),
    data=ExamplesConfig(held_out_share=0.1),
    num_epochs=3.0,
    batch=BatchConfig(sequence_length=1024, global_batch_size=16),
    schedule=Cosine(peak_learning_rate=5e-6, warmup_share=0.1, final_share=0.1),
    optimizer=AdamW(weight_decay=0.0),
    evaluation=EvaluationConfig(
        max_tokens=None, prompts=("Who are you?", "What is the capital of France?")
    ),
)
