"""LoRA: a trained model learns to answer through small matrices next to its own, which stay.

    python -m jaxgpt.finetune --config configs/lora.py --checkpoint runs/base --data chats.jsonl

Every projection of the blocks is adapted, and the rows of the chat template's tokens are trained if
the base has read documents only. The checkpoints of the run hold the adapter alone, and
need the base. The learning rate is ten times that of `configs/sft.py`. For DoRA add
`--adapter Dora`.
"""

from jaxgpt import EvaluationConfig, FinetuneConfig
from jaxgpt.data import BatchConfig
from jaxgpt.finetuning import ExamplesConfig, Supervised
from jaxgpt.model import Lora
from jaxgpt.training import AdamW, Cosine

config = FinetuneConfig(
    objective=Supervised(),
    adapter=Lora(rank=16, alpha=32.0),
    data=ExamplesConfig(held_out_share=0.05),
    num_epochs=3.0,
    batch=BatchConfig(sequence_length=1024, global_batch_size=16),
    schedule=Cosine(peak_learning_rate=6e-4, warmup_share=0.03, final_share=0.1),
    optimizer=AdamW(weight_decay=0.0),
    evaluation=EvaluationConfig(
        max_tokens=None, prompts=("Who are you?", "What is the capital of France?")
    ),
)
