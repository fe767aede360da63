"""A checkpoint as a GGUF file, which llama.cpp and the programs built on it read."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.interchange.gguf.export_gguf import export_gguf
else:
    __getattr__, __dir__ = lazy_imports(__name__)
