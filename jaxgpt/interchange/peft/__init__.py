"""An adapter as PEFT reads it, with the base that it belongs to."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.interchange.peft.export_peft import export_peft
else:
    __getattr__, __dir__ = lazy_imports(__name__)
