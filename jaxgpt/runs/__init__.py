"""One run: config, setup, training, resume, supervision."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.runs.config import (
        EvaluationConfig,
        ModelSection,
        RunConfig,
        RunSettings,
        TrainConfig,
    )
    from jaxgpt.runs.pretrain import train_run
    from jaxgpt.runs.report.records import RunFolder, read_run_folder
    from jaxgpt.runs.report.report import write_run_report
    from jaxgpt.runs.run import BaseCheckpoint, Run, open_run
    from jaxgpt.runs.tuning.based_config import BasedRunConfig, TuningConfig
    from jaxgpt.runs.tuning.continue_config import ContinueConfig, ContinueRunConfig
    from jaxgpt.runs.tuning.finetune_config import FinetuneConfig, FinetuneRunConfig
else:
    __getattr__, __dir__ = lazy_imports(__name__)
