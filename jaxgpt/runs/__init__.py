"""One run: config, setup, training, resume, supervision, quickstart."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.runs.config import EvaluationConfig, TrainConfig
    from jaxgpt.runs.finetune_config import FinetuneConfig, FinetuneRunConfig
    from jaxgpt.runs.pretrain import train_run
    from jaxgpt.runs.report.records import RunFolder, read_run_folder
    from jaxgpt.runs.report.report import write_run_report
    from jaxgpt.runs.run import Run, open_run
else:
    __getattr__, __dir__ = lazy_imports(__name__)
