"""Text files in, token shards out: the dataset builder. No JAX anywhere in here.

The order of the stages is in `build.py`; each of the other files holds one idea.
"""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.corpus.append import append_to_dataset
    from jaxgpt.corpus.append_settings import recorded_config
    from jaxgpt.corpus.build import build_dataset
    from jaxgpt.corpus.cleaning.privacy import PrivacyConfig
    from jaxgpt.corpus.cleaning.repair import RepairConfig
    from jaxgpt.corpus.config import DatasetConfig, ShardsConfig
    from jaxgpt.corpus.dataset.export import export_dataset
    from jaxgpt.corpus.dataset.import_tokens import import_tokens
    from jaxgpt.corpus.dataset.similar import find_similar
    from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
    from jaxgpt.corpus.documents.splits import HashSplit, Split, TailSplit
    from jaxgpt.corpus.execution.config import ExecutorConfig
    from jaxgpt.corpus.filters.c4 import C4Config
    from jaxgpt.corpus.filters.code import CodeConfig
    from jaxgpt.corpus.filters.config import FiltersConfig
    from jaxgpt.corpus.filters.decontamination import DecontaminationConfig
    from jaxgpt.corpus.filters.fineweb import FineWebConfig
    from jaxgpt.corpus.filters.gopher_quality import GopherQualityConfig
    from jaxgpt.corpus.filters.gopher_repetition import GopherRepetitionConfig
    from jaxgpt.corpus.filters.language import LanguageConfig
    from jaxgpt.corpus.filters.urls import UrlConfig
    from jaxgpt.corpus.iterate import read_documents
    from jaxgpt.corpus.merge import merge_shards
    from jaxgpt.corpus.readers.sources import SourcesConfig
    from jaxgpt.corpus.stages.mixture import MixtureConfig
    from jaxgpt.corpus.stages.train_tokenizer import DatasetTokenizer
    from jaxgpt.corpus.takedown.takedown import take_down
    from jaxgpt.corpus.text.batch import Judged, Step, TextBatch
else:
    __getattr__, __dir__ = lazy_imports(__name__)
