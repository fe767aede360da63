"""The quickstart's job: a model of the quickstart learns to answer from docstrings.

    python tools/docstring_examples.py --input PYTHON_CODE --output questions.jsonl
    python -m jaxgpt.finetune --config configs/quickstart_answers.py --checkpoint runs/quickstart \
        --data questions.jsonl --run-dir runs/quickstart-answers

One pass over the questions, in small batches; no decay of weights, as the base is small.
"""

from jaxgpt import EvaluationConfig, FinetuneConfig
from jaxgpt.data import BatchConfig
from jaxgpt.finetuning import ExamplesConfig
from jaxgpt.training import AdamW, Cosine

config = FinetuneConfig(
    data=ExamplesConfig(held_out_share=0.05),
    num_epochs=1.0,
    batch=BatchConfig(sequence_length=256, global_batch_size=4),
    schedule=Cosine(peak_learning_rate=2e-3, warmup_share=0.05, final_share=0.1),
    optimizer=AdamW(weight_decay=0.0),
    evaluation=EvaluationConfig(every_steps=54, max_tokens=None),  # At thirds of the pass.,
)
