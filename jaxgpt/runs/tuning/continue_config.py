"""The configs of runs that continue on new text; see based_config.py for what they share."""

import logging
from pathlib import Path
from typing import Any, ClassVar, Self

from jaxgpt.config import configclass, replace
from jaxgpt.data.loader import WeightedDataset, open_training_batches
from jaxgpt.errors import BadInputError, MismatchError, UsageError
from jaxgpt.evaluation.held_out import HeldOutText, open_split
from jaxgpt.finetuning.objectives import Supervised, TokenObjective
from jaxgpt.finetuning.text import NewText
from jaxgpt.names.nearby_paths import describe_nearby_datasets
from jaxgpt.runs.run import Run
from jaxgpt.runs.sources import HeldOut, Sources
from jaxgpt.runs.tuning.based_config import BasedRunConfig, TuningConfig
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.overfitting import warn_of_text

logger = logging.getLogger(__name__)

# Name of a figure; the report plots it.
OLD_TEXT_LOSS = "old_text_loss"


@configclass
class ContinueConfig(TuningConfig):
    """A run that continues on new text, without its model. `configs/continue.py` is one."""

    objective: TokenObjective = Supervised()
    """Training objective; every token of the text is a target."""
    data: NewText = NewText()

    def make_run_config(self, run: Run, fields: dict[str, Any]) -> "ContinueRunConfig":
        """Return the config of a run, with the text that the checkpoint's run was trained on."""
        replayed = self.data.replayed or run.config.text_mixture()
        return ContinueRunConfig(**fields, data=replace(self.data, replayed=replayed))


@configclass
class ContinueRunConfig(ContinueConfig, BasedRunConfig):
    """A run that continues on new text, with its model, as a run folder keeps it."""

    reads_documents: ClassVar[bool] = True

    def with_data(self, names: tuple[str, ...]) -> Self:
        """Return the config with other datasets of new text, all of one weight."""
        datasets = tuple(WeightedDataset(path=name) for name in names)
        return replace(self, data=replace(self.data, datasets=datasets))

    def text_mixture(self) -> tuple[WeightedDataset, ...]:
        """Return the new datasets, and the old ones if they are replayed."""
        return self.data.mixture().datasets

    def open_sources(self) -> Sources:
        """Open the new datasets and the old ones as one mixture.

        Raises:
            UsageError: one is not there, or there is no old text to replay.
            ConfigError, MismatchError: see `open_training_batches`; or a dataset was made with
                another tokenizer than the checkpoint's.
        """
        data, tokenizer = self.data, self.base_tokenizer
        self._check_old_text()
        for each in self._new_datasets():
            open_split(each.path, "train", tokenizer, self.base.run)
        batches = open_training_batches(data.mixture(), self.batch, self.seed)
        # A pass over the new text; the rows between are replayed ones.
        num_tokens = sum(batches.tokens_by_dataset[: len(data.datasets)])
        batches.tokens_per_epoch = round(num_tokens / (1 - data.replay_share))
        held_out = self._held_out(data.datasets[0], tokenizer)
        also_measured = {}
        if data.replayed and Path(data.replayed[0].path).is_dir():
            try:
                also_measured[OLD_TEXT_LOSS] = self._held_out(data.replayed[0], tokenizer)
            except (UsageError, MismatchError, BadInputError) as error:
                if data.replay_share:
                    raise
                logger.warning("the old text is not measured: %s", error)

        def warn(num_epochs: float) -> list[str]:
            return warn_of_text(num_epochs, held_out.split.num_tokens)

        return Sources(batches, held_out, tokenizer, warn, also_measured)

    def open_held_out(
        self, data: str | None, split: str, length: int, tokenizer: Tokenizer, owner: str
    ) -> tuple[HeldOut, str]:
        """Open a split of a dataset, by default the first one of new text; see `open_split`."""
        name = data or self.data.datasets[0].path
        opened = open_split(name, split, tokenizer, owner)
        return HeldOutText(opened, length, self.data.mask_documents), name

    def _held_out(self, dataset: WeightedDataset, tokenizer: Tokenizer) -> HeldOutText:
        split = open_split(dataset.path, "val", tokenizer, self.base.run)
        return HeldOutText(split, self.batch.sequence_length, self.data.mask_documents)

    def _new_datasets(self) -> tuple[WeightedDataset, ...]:
        if not self.data.datasets:
            raise UsageError(
                "no dataset of new text: give --data DIR, a dataset folder made with the tokenizer "
                f"of {self.base.run}"
            )
        for each in self.data.datasets:
            if not Path(each.path).is_dir():
                hint = describe_nearby_datasets(Path(each.path))
                raise UsageError(
                    f"no dataset at {each.path}, seen from {Path.cwd()}{hint}; build one with "
                    f"`jaxgpt build-dataset --input TEXT --output DIR --tokenizer.path "
                    f"{self.base.run}`"
                )
        return self.data.datasets

    def _check_old_text(self) -> None:
        """Refuse to replay text that is not there."""
        data = self.data
        if not data.replay_share:
            return
        if not data.replayed:
            raise UsageError(
                f"data.replay_share={data.replay_share}, and {self.base.run} was not trained on "
                "datasets of text; name some in data.replayed, or give --data.replay-share 0"
            )
        for each in data.replayed:
            if not Path(each.path).is_dir():
                raise UsageError(
                    f"the dataset {each.path} that {self.base.run} was trained on is not there, "
                    f"seen from {Path.cwd()}; say where it is in data.replayed, or give "
                    "--data.replay-share 0"
                )
