"""The quickstart's dataset: the Python standard library without its tests, 4,096 BPE pieces.

    python tools/build_dataset.py --config configs/quickstart_dataset.py \\
        --input "$(python -c 'import sysconfig; print(sysconfig.get_paths()["stdlib"])')" \\
        --output data/quickstart
"""

from jaxgpt.corpus import DatasetConfig, DatasetTokenizer, HashSplit, SourcesConfig

config = DatasetConfig(
    sources=SourcesConfig(
        exclude=("*/test/*", "*/tests/*", "*/idle_test/*", "*/site-packages/*", "*/config-*/*")
    ),
    split=HashSplit(val_fraction=0.02),
    tokenizer=DatasetTokenizer(kind="bpe", vocab_size=4096),
)
