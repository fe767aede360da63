"""Continued pretraining: a trained model reads new text, and some of the old so as not to forget.

    python -m jaxgpt.finetune --config configs/continue.py --checkpoint runs/base --data data/new

The new dataset is built with the tokenizer of the run (--tokenizer.path runs/base). The schedule
and the optimiser begin again, at a third of pretraining's learning rate, for one pass over the new
text.
"""

from jaxgpt import ContinueConfig, EvaluationConfig
from jaxgpt.data import BatchConfig
from jaxgpt.finetuning import NewText, Supervised
from jaxgpt.training import AdamW, Cosine

config = ContinueConfig(
    objective=Supervised(),
    data=NewText(replay_share=0.1),
    num_epochs=1.0,
    batch=BatchConfig(sequence_length=1024, global_batch_size=64),
    schedule=Cosine(peak_learning_rate=2e-4, warmup_share=0.02, final_share=0.1),
    optimizer=AdamW(),
    evaluation=EvaluationConfig(max_tokens=1_000_000),
)
