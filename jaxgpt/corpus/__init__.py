"""Text files in, token shards out: the dataset builder. No JAX anywhere in here.

The order of the stages is in `pipeline.py`; each of the other files holds one idea.
"""

from typing import TYPE_CHECKING

from jaxgpt.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.corpus.appending import append_to_dataset
    from jaxgpt.corpus.config import DatasetConfig, ShardsConfig
    from jaxgpt.corpus.decontamination import DecontaminationConfig
    from jaxgpt.corpus.executors.config import ExecutorConfig
    from jaxgpt.corpus.exporting import export_dataset
    from jaxgpt.corpus.filters.c4 import C4Config
    from jaxgpt.corpus.filters.code import CodeConfig
    from jaxgpt.corpus.filters.config import FiltersConfig
    from jaxgpt.corpus.filters.fineweb import FineWebConfig
    from jaxgpt.corpus.filters.gopher_quality import GopherQualityConfig
    from jaxgpt.corpus.filters.gopher_repetition import GopherRepetitionConfig
    from jaxgpt.corpus.filters.language import LanguageConfig
    from jaxgpt.corpus.filters.urls import UrlConfig
    from jaxgpt.corpus.merging import merge_shards
    from jaxgpt.corpus.near_duplicates.config import NearDuplicatesConfig
    from jaxgpt.corpus.part_settings import recorded_config
    from jaxgpt.corpus.pipeline import build_dataset
    from jaxgpt.corpus.plain_reading import read_documents
    from jaxgpt.corpus.privacy import PrivacyConfig
    from jaxgpt.corpus.repair import RepairConfig
    from jaxgpt.corpus.similar_documents import find_similar
    from jaxgpt.corpus.sources import SourcesConfig
    from jaxgpt.corpus.splits import HashSplit, Split, TailSplit
    from jaxgpt.corpus.takedown import take_down
    from jaxgpt.corpus.text_batch import Judged, Step, TextBatch
    from jaxgpt.corpus.token_import import import_tokens
    from jaxgpt.corpus.vocabulary import DatasetTokenizer
    from jaxgpt.corpus.weighing import MixtureConfig
else:
    __getattr__, __dir__ = lazy_imports(__name__)
