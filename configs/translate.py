"""Translation as a job: rows with the fields `source` and `target`, written into a template.

    python -m jaxgpt.finetune --config configs/translate.py --checkpoint runs/base \
        --data pairs.jsonl

Other fields or languages are other words in the braces, such as `{translation.en}` for the field
`en` of an object. `jaxgpt eval --tasks translations=FILE` scores the result by BLEU and chrF.
"""

from pathlib import Path

from jaxgpt import FinetuneConfig, load_config, replace
from jaxgpt.finetuning import ExamplesConfig, Template

sft = load_config(Path(__file__).with_name("sft.py"), FinetuneConfig)

config = replace(
    sft,
    data=ExamplesConfig(form=Template(prompt="Translate: {source}", target="{target}")),
    evaluation=replace(sft.evaluation, prompts=("Translate: Good morning.",)),
)
