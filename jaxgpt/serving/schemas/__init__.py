"""Bodies that clients may send, by route."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.serving.schemas.chats import (
        ChatMessage,
        ChatRequest,
        NamedTool,
        TextPart,
        TokenizeRequest,
        ToolChoice,
    )
    from jaxgpt.serving.schemas.requests import (
        MOST_GRAMMAR,
        AtLeastOne,
        Body,
        CompletionRequest,
        DetokenizeRequest,
        FormFields,
        JsonSchemaFormat,
        ResponseFormat,
        SamplingFields,
        StructuredOutputs,
    )
else:
    __getattr__, __dir__ = lazy_imports(__name__)
