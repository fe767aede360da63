"""One server for the tests of a process: compiling its programs is most of what they cost."""

from collections.abc import Iterator
from typing import Any

import pytest

from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.tiny import make_texts


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(make_texts(200), TokenizerConfig(vocab_size=320))


@pytest.fixture(scope="session")
def served(tokenizer: Tokenizer) -> Iterator[Any]:
    # Its packages are an extra; a file of tests that imports it is skipped without them.
    from tests.serving.served import Served

    served = Served(tokenizer)
    yield served
    served.stop()
