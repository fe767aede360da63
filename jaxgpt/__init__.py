"""Train your own GPT: from raw text to a model that talks. Start at README.md."""

from typing import TYPE_CHECKING

from jaxgpt.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.config import configclass, from_json, load_config, replace, to_json
    from jaxgpt.experiment import EvaluationConfig, Run, TrainConfig, open_run
    from jaxgpt.pretraining import train_run
    from jaxgpt.tokenizer import Tokenizer
    from jaxgpt.tokenizer_training import TokenizerConfig, train_tokenizer
else:
    __getattr__, __dir__ = lazy_imports(__name__)
