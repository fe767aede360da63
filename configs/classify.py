"""Classification of texts: a trained model learns to give each text one of some labels.

    python -m jaxgpt.finetune --config configs/classify.py --checkpoint runs/base --data texts.jsonl

Rows of the file have `text` and `label`. The labels are those of the examples, or are named by
`SingleLabel(labels=("bad", "good"))`. MultiLabel is for texts with any number of `labels`, and
`pooling=MeanOfTokens()` reads all tokens instead of the last one.
"""

from jaxgpt import EvaluationConfig, FinetuneConfig
from jaxgpt.data import BatchConfig
from jaxgpt.finetuning import ExamplesConfig, SingleLabel
from jaxgpt.training import AdamW, Cosine

config = FinetuneConfig(
    objective=SingleLabel(),
    data=ExamplesConfig(held_out_share=0.1),
    num_epochs=3.0,
    batch=BatchConfig(sequence_length=1024, global_batch_size=16),
    schedule=Cosine(peak_learning_rate=6e-5, warmup_share=0.1, final_share=0.1),
    optimizer=AdamW(weight_decay=0.0),
    # A classifier continues no prompts.
    evaluation=EvaluationConfig(max_tokens=None, prompts=()),
)
