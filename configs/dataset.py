"""A dataset of your own text: nothing judged, 1% of the documents held out, 16k BPE pieces.

    python tools/build_dataset.py --input PATH... --output data/NAME

is the same as with `--config configs/dataset.py`; every field can be given on the command line,
for example `--tokenizer.vocab-size 8192`.
"""

from jaxgpt.corpus import (
    DatasetConfig,
    DatasetTokenizer,
    FiltersConfig,
    HashSplit,
    RepairConfig,
    SourcesConfig,
)

config = DatasetConfig(
    sources=SourcesConfig(text_key="text", max_record_bytes=8 * 2**20, max_bad_share=0.01),
    repair=RepairConfig(max_replaced_share=0.01, unicode_form="as_is"),
    filters=FiltersConfig(profile="none"),
    split=HashSplit(val_fraction=0.01),
    tokenizer=DatasetTokenizer(kind="bpe", vocab_size=16384),
    seed=0,
)
