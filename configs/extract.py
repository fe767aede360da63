"""Extraction: a trained model learns to mark spans of a text, such as names or quantities.

    python -m jaxgpt.finetune --config configs/extract.py --checkpoint runs/base --data FILE

Rows of the file have `text` and `spans`, a list of `{"start": 0, "end": 3, "label": "person"}` in
characters. The labels are those of the examples, or are named by `Extraction(labels=("person",))`.
"""

from jaxgpt import EvaluationConfig, FinetuneConfig
from jaxgpt.data import BatchConfig
from jaxgpt.finetuning import ExamplesConfig, Extraction
from jaxgpt.training import AdamW, Cosine

config = FinetuneConfig(
    objective=Extraction(),
    data=ExamplesConfig(held_out_share=0.1),
    num_epochs=3.0,
    batch=BatchConfig(sequence_length=1024, global_batch_size=16),
    schedule=Cosine(peak_learning_rate=6e-5, warmup_share=0.1, final_share=0.1),
    optimizer=AdamW(weight_decay=0.0),
    # An extractor continues no prompts.
    evaluation=EvaluationConfig(max_tokens=None, prompts=()),
)
