"""Train your own GPT: from raw text to a model that talks. Start at README.md."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.config import configclass, from_json, load_config, replace, to_json
    from jaxgpt.runs.config import EvaluationConfig, TrainConfig
    from jaxgpt.runs.pretrain import train_run
    from jaxgpt.runs.run import Run, open_run
    from jaxgpt.runs.tuning.continue_config import ContinueConfig
    from jaxgpt.runs.tuning.finetune_config import FinetuneConfig
    from jaxgpt.tokenizer.tokenizer import Tokenizer
    from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
else:
    __getattr__, __dir__ = lazy_imports(__name__)
