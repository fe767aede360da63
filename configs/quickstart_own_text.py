"""The quickstart's dataset of your own text: 4,096 BPE pieces, 5% of the documents held out.

python -m jaxgpt.quickstart --input PATH...
"""

from jaxgpt.corpus import DatasetConfig, DatasetTokenizer, HashSplit

config = DatasetConfig(
    split=HashSplit(val_fraction=0.05),
    tokenizer=DatasetTokenizer(kind="bpe", vocab_size=4096),
)
