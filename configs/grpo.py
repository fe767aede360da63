"""Learning from checked answers: the model answers, a rule checks, better answers become likelier.

    python tools/number_examples.py --output sums.jsonl
    python -m jaxgpt.finetune --config configs/grpo.py --checkpoint runs/sft --data sums.jsonl \
        --objective.max-answer-tokens 8

Begin with a model that is right now and then, such as one of configs/sft.py: where no answer to a
prompt is right, or all are, there is nothing to learn. Rewards make a way of answering likely that
the model takes now and then; one that it lacks is learned faster from examples. ExactMatch compares
whole answers, FinalNumber the last number, as GSM8K needs; a rule of your own is a subclass of
Verifier (docs/finetuning.md). In place of Grpo, `jaxgpt.finetuning` has DrGrpo, Dapo and Gspo.
"""

from jaxgpt import EvaluationConfig, FinetuneConfig
from jaxgpt.data import BatchConfig
from jaxgpt.finetuning import ExactMatch, ExamplesConfig, Grpo
from jaxgpt.training import AdamW, Constant, NoSkipping

config = FinetuneConfig(
    objective=Grpo(verifier=ExactMatch(), answers_per_prompt=8, max_answer_tokens=256),
    data=ExamplesConfig(held_out_share=0.1),
    num_epochs=1.0,
    # Rows are answers: 16 prompts a step.
    batch=BatchConfig(sequence_length=512, global_batch_size=128),
    schedule=Constant(peak_learning_rate=1e-5, warmup_share=0.05),
    optimizer=AdamW(weight_decay=0.0),
    # A rare group with variance is no spike: it is what is learned from.
    recovery=NoSkipping(),
    evaluation=EvaluationConfig(max_tokens=None, prompts=("37+58",)),
)
