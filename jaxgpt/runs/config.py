"""The configs of whole runs, composed of the sections that each package owns.

Not inside `train.py`: under `python -m` that module is `__main__`, and its classes would be others.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jax.sharding import Mesh

from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.config import configclass
from jaxgpt.data.loader import BatchConfig, DataConfig, WeightedDataset, open_training_batches
from jaxgpt.errors import UsageError
from jaxgpt.evaluation.held_out import HeldOutText, open_split
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.objective import NextToken, Objective
from jaxgpt.evaluation.runner.example_options import ExampleOptions
from jaxgpt.evaluation.runner.results import TaskResult
from jaxgpt.inference.text_generation import HealedPrompt, heal_prompt
from jaxgpt.model.cpu.threefry import MAX_SEED
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.parallel.mesh import MeshConfig
from jaxgpt.parallel.sharding import ShardingRules
from jaxgpt.runs.sources import HeldOut, Sources
from jaxgpt.runtime.settings import RuntimeConfig
from jaxgpt.tokenizer.chat_template import USER, Message
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.loss import LossConfig
from jaxgpt.training.metrics import LoggingConfig
from jaxgpt.training.optimizer import AdamW, Optimizer
from jaxgpt.training.overfitting import warn_of_text
from jaxgpt.training.recovery import Recovery, SkipSpikes
from jaxgpt.training.schedule import Cosine, Schedule
from jaxgpt.training.state import make_parameters
from jaxgpt.training.watchdog import WatchdogConfig

CONFIG_VERSION = 1


@configclass
class EvaluationConfig:
    """Evaluations and samples during training; of a mixture, only the first dataset is used."""

    every_steps: int | None = None
    """Steps between evaluations on the validation split; None: a tenth of the run."""
    max_tokens: int | None = 1_000_000
    """Most tokens per evaluation, from the beginning of the split; None: the whole split."""
    batch_size: int | None = None
    """Rows per batch; None: as many as a training micro-batch has."""
    prompts: tuple[str, ...] = ()
    """Texts to continue at each evaluation, for a person to read."""
    sample_tokens: int = 100
    """Length of each continuation of a prompt, in tokens."""

    def __post_init__(self) -> None:
        for name, least in (("every_steps", 1), ("max_tokens", 2), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be at least {least}, or None")
        if self.sample_tokens < 1:
            raise ValueError(f"sample_tokens={self.sample_tokens} must be at least 1")


@configclass
class RunSettings:
    """Settings that every run has, whatever its model and data."""

    such_as: ClassVar[str] = "a run, such as configs/base.py or configs/sft.py"

    batch: BatchConfig
    schedule: Schedule = Cosine()
    optimizer: Optimizer = AdamW()
    objective: Objective = NextToken()
    """Training objective, by which held-out data are measured, too."""
    loss: LossConfig = LossConfig()
    recovery: Recovery = SkipSpikes()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    mesh: MeshConfig = MeshConfig()
    sharding: ShardingRules = ShardingRules()
    runtime: RuntimeConfig = RuntimeConfig()
    seed: int = 0
    """Seed of the initial parameters, the order of the data and dropout, below 2**64."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed={self.seed} must be from 0 to 2**64 - 1")


@configclass
class ModelSection:
    """The model of a run. A class of its own, so that it is the first section of a config."""

    model: GptConfig


@configclass
class RunConfig(RunSettings, ModelSection):
    """Base of the configs of runs: settings and model, without the data."""

    measures_start: ClassVar[bool] = False
    """Measurement of held-out data, and samples, before step 1 as well."""
    prompt_form: ClassVar[str] = "plain text"
    """Form that `encode_prompt` gives to a text, for reports."""
    reads_documents: ClassVar[bool] = False
    """Training on documents only, in which no message ends."""

    def open_sources(self) -> Sources:
        """Open the data of the run."""
        raise NotImplementedError(f"{type(self).__name__} has no open_sources")

    def text_mixture(self) -> tuple[WeightedDataset, ...]:
        """Return the datasets of text that the run trains on, which another run may replay."""
        return ()

    def prepare_sources(
        self, sources: Sources, run_dir: Path, heartbeat: Callable[[], None]
    ) -> Sources:
        """Return the data with what the run computes of them before the first step, if anything.

        Args:
            sources: as opened.
            run_dir: where it is kept.
            heartbeat: called whenever a part is done.
        """
        return sources

    def open_held_out(
        self, data: str | None, split: str, length: int, tokenizer: Tokenizer, owner: str
    ) -> tuple[HeldOut, str]:
        """Open data to measure a model of the run on, and return them with their name.

        Args:
            data: where they are; None: those of the run.
            split: which part.
            length: tokens of a row.
            tokenizer: the run's.
            owner: the run, for messages.

        Raises:
            UsageError: there are no such data.
        """
        raise NotImplementedError(f"{type(self).__name__} has no open_held_out")

    def prepare_held_out(self, held_out: HeldOut, run_dir: Path, mesh: Mesh) -> HeldOut:
        """Return held-out data with what `prepare_sources` adds to those of the run."""
        return held_out

    def check_examples(self, options: ExampleOptions) -> None:
        """Refuse scores of single held-out examples that the run does not have.

        Raises:
            UsageError: the run has no examples, or no such scores.
            ConfigError: a package of a score is missing.
        """
        if options.examples is not None:
            raise UsageError(
                "--examples needs a run that learned from examples, as of jaxgpt.finetune; leave "
                "it out"
            )

    def score_examples(
        self,
        loaded: LoadedModel,
        held_out: HeldOut,
        options: ExampleOptions,
        batch_size: int,
        silent: bool,
    ) -> list[TaskResult]:
        """Return the figures of single held-out examples, if they are asked for.

        Args:
            loaded: the model, of this run or of one to compare with.
            held_out: what `prepare_held_out` returned.
            options: what is asked for.
            batch_size: rows at a time.
            silent: show no progress.
        """
        return []

    def build_model(self, vocab_size: int) -> Gpt:
        """Return the model that is trained."""
        return self.model.build(vocab_size)

    def make_parameters(self, model: Gpt, abstract: Any) -> Any:
        """Make the trained parameters of step 0, shaped and placed like `abstract`."""
        raise NotImplementedError(f"{type(self).__name__} has no make_parameters")

    def read_frozen(self, abstract: Any) -> Any:
        """Read the parameters that are not trained, shaped and placed like `abstract`."""
        return {}

    def read_params(
        self, checkpoints: Checkpoints, step: int, vocab_size: int, abstract: Any
    ) -> Any:
        """Read the parameters of `model` after a step of the run.

        Args:
            checkpoints: the run's.
            step: which.
            vocab_size: the tokenizer's.
            abstract: their shapes, types and places; see `Checkpoints.restore_params`.

        Raises:
            MismatchError: the checkpoint holds others.
        """
        return checkpoints.restore_params(step, abstract)

    def encode_prompt(self, tokenizer: Tokenizer, text: str) -> HealedPrompt:
        """Return the ids that a model of the run continues, for a text that a person types."""
        return self.encode_conversation(tokenizer, [Message(USER, text)])

    def encode_conversation(
        self, tokenizer: Tokenizer, messages: Sequence[Message]
    ) -> HealedPrompt:
        """Return the ids that a model of the run continues: here, of all texts in a row."""
        return heal_prompt(tokenizer, "".join(message.content for message in messages))

    def stop_ids(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Return the ids at which a model of the run ends its text."""
        return (tokenizer.eos_id,)


@configclass
class TrainConfig(RunConfig):
    """A pretraining run. `configs/base.py` spells every field."""

    such_as: ClassVar[str] = "a pretraining run, such as configs/base.py or configs/medium.py"
    reads_documents: ClassVar[bool] = True

    data: DataConfig = DataConfig()

    def open_sources(self) -> Sources:
        """Open the datasets; see `open_training_batches` for what it raises."""
        batches = open_training_batches(self.data, self.batch, self.seed)
        dataset = batches.datasets[0]
        held_out = HeldOutText(
            dataset.splits["val"], self.batch.sequence_length, self.data.mask_documents
        )

        def warn(num_epochs: float) -> list[str]:
            return warn_of_text(num_epochs, held_out.split.num_tokens)

        return Sources(batches, held_out, dataset.load_tokenizer(), warn)

    def text_mixture(self) -> tuple[WeightedDataset, ...]:
        """Return the datasets of the run."""
        return self.data.datasets

    def open_held_out(
        self, data: str | None, split: str, length: int, tokenizer: Tokenizer, owner: str
    ) -> tuple[HeldOut, str]:
        """Open a split of a dataset; see `open_split` for what it raises."""
        name = data or self.own_dataset()
        opened = open_split(name, split, tokenizer, owner)
        return HeldOutText(opened, length, self.data.mask_documents), name

    def own_dataset(self) -> str:
        """Return the dataset folder that the run was trained on.

        Raises:
            UsageError: it was a mixture, or is not where it was.
        """
        paths = [dataset.path for dataset in self.data.datasets]
        if not paths:
            raise UsageError("the run was imported, and has no dataset; give one with --data")
        if len(paths) != 1:
            raise UsageError(f"the run was trained on {', '.join(paths)}; choose one with --data")
        if not Path(paths[0]).is_dir():
            raise UsageError(
                f"the dataset {paths[0]} that the run was trained on is not there, seen from "
                f"{Path.cwd()}: one of them was moved; say with --data where it is now"
            )
        return paths[0]

    def make_parameters(self, model: Gpt, abstract: Any) -> Any:
        """Draw the initial parameters; they depend on the seed alone, not on the mesh."""
        return make_parameters(model, abstract, self.seed)
