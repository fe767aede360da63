"""The door to other tools: checkpoints as Hugging Face folders, and such folders as runs."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.interchange.architectures import choose_architecture
    from jaxgpt.interchange.huggingface import export_huggingface
    from jaxgpt.interchange.import_run import import_huggingface
else:
    __getattr__, __dir__ = lazy_imports(__name__)
