"""`DatasetConfig`: all settings that decide the content of a dataset."""

from jaxgpt.config import configclass
from jaxgpt.corpus.cleaning.privacy import PrivacyConfig
from jaxgpt.corpus.cleaning.repair import RepairConfig
from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
from jaxgpt.corpus.documents.splits import HashSplit, Split
from jaxgpt.corpus.execution.config import ExecutorConfig
from jaxgpt.corpus.filters.config import FiltersConfig
from jaxgpt.corpus.filters.decontamination import DecontaminationConfig
from jaxgpt.corpus.readers.sources import SourcesConfig
from jaxgpt.corpus.stages.mixture import MixtureConfig
from jaxgpt.corpus.stages.train_tokenizer import DatasetTokenizer
from jaxgpt.data.shard_writer import DEFAULT_SHARD_TOKENS


@configclass
class ShardsConfig:
    """Layout of tokens in shard files."""

    max_tokens: int = DEFAULT_SHARD_TOKENS
    """Most tokens per shard."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens = {self.max_tokens}; it must be at least 1")


@configclass
class DatasetConfig:
    """Settings of a dataset build."""

    sources: SourcesConfig = SourcesConfig()
    """Reading of the input."""
    repair: RepairConfig = RepairConfig()
    """Repair of damaged text."""
    filters: FiltersConfig = FiltersConfig()
    """Quality rules that documents must pass."""
    near_duplicates: NearDuplicatesConfig = NearDuplicatesConfig()
    """Removal of documents that nearly repeat another one."""
    privacy: PrivacyConfig = PrivacyConfig()
    """Replacement of addresses in texts."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """Evaluation texts that must not be trained on."""
    mixture: MixtureConfig = MixtureConfig()
    """Weights of the sources: documents dropped or repeated."""
    split: Split = HashSplit()
    """Choice of the validation text."""
    tokenizer: DatasetTokenizer = DatasetTokenizer()
    """Tokenizer to train, or an existing one."""
    shards: ShardsConfig = ShardsConfig()
    """Layout of the tokens in shard files."""
    executor: ExecutorConfig = ExecutorConfig()
    """Processes or cluster that do the work."""
    seed: int = 0
    """Random seed of the order of documents and of the choice of validation documents."""

    def __post_init__(self) -> None:
        if self.mixture.weights and not isinstance(self.split, HashSplit):
            raise ValueError(
                "mixture.weights need a split by whole documents (split=HashSplit): validation "
                "documents are neither dropped nor repeated"
            )
