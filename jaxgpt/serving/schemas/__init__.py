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
        telling,
    )
    from jaxgpt.serving.schemas.items import (
        InputItem,
        NamedFunction,
        as_chat_tool,
        as_messages,
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
        Switch,
    )
else:
    __getattr__, __dir__ = lazy_imports(__name__)
