"""Training: loss, optimiser, state, one step, the loop around it. Knows no text and no verbs."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.training.averaging import Averaging, ExponentialAverage, NoAveraging
    from jaxgpt.training.chunked_loss import LinearCrossEntropy, TokenChunks, WholeLogits
    from jaxgpt.training.loop import Loop, fit
    from jaxgpt.training.loss import LossConfig, cross_entropy, language_model_loss
    from jaxgpt.training.metrics import LoggingConfig, MetricsLog, read_records
    from jaxgpt.training.optimizer import AdamW, Muon, Optimizer
    from jaxgpt.training.recovery import NoSkipping, Recovery, SkipSpikes
    from jaxgpt.training.schedule import Constant, Cosine, LinearDecay, Schedule, WarmupStableDecay
    from jaxgpt.training.state import StatePlan, TrainState, init_state, plan_state
    from jaxgpt.training.step import StepMetrics, make_train_step
    from jaxgpt.training.watchdog import WatchdogConfig
else:
    __getattr__, __dir__ = lazy_imports(__name__)
