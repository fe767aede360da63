"""A dataset of characters out of one long text, its last tenth held out, as nanoGPT has it.

    python tools/build_dataset.py --config configs/dataset_char.py \\
        --input input.txt --output data/shakespeare_char

For tiny Shakespeare (1,115,394 characters, 65 of them different) the first 1,003,854 characters
are for training; `configs/shakespeare_char.py` trains on the result.
"""

from jaxgpt.corpus import DatasetConfig, DatasetTokenizer, TailSplit

config = DatasetConfig(
    split=TailSplit(val_fraction=0.1),
    tokenizer=DatasetTokenizer(kind="char"),
)
