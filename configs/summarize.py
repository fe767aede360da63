"""Summarisation as a job: rows with the fields `text` and `summary`, written into a template.

    python tools/docstring_examples.py --input PYTHON_CODE --output summaries.jsonl --job summaries
    python -m jaxgpt.finetune --config configs/summarize.py --checkpoint runs/base \
        --data summaries.jsonl

Texts that are longer than the context lose their beginning.
"""

from pathlib import Path

from jaxgpt import FinetuneConfig, load_config, replace
from jaxgpt.finetuning import ExamplesConfig, Template

sft = load_config(Path(__file__).with_name("sft.py"), FinetuneConfig)

config = replace(
    sft,
    data=ExamplesConfig(form=Template(prompt="Summarize:\n\n{text}", target="{summary}")),
    evaluation=replace(sft.evaluation, prompts=()),
)
