"""Tools that a small model is given."""

from typing import Any

CAT = {
    "type": "object",
    "properties": {
        "size": {"$ref": "#/$defs/size"},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
    },
    "required": ["size", "names"],
    "additionalProperties": False,
    "$defs": {"size": {"enum": ["big", "small"]}},
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "find_cat", "parameters": CAT}},
    {"type": "function", "function": {"name": "stop"}},
]
