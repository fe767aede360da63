"""Text to token ids and back, and how the vocabulary is trained."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.tokenizer.chat_template import ChatTemplate, Message
    from jaxgpt.tokenizer.tokenizer import Tokenizer
    from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
else:
    __getattr__, __dir__ = lazy_imports(__name__)
