"""Formats of texts in JSON schemas, and what llguidance 1.9 lets pass in them."""

import json
from typing import Any

from jaxgpt.inference.engine.forms.schema_places import subschemas

FORMATS = frozenset(
    {
        "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid",
    }
)  # fmt: skip
# Years with 29 February; the year 0 is none, which Python's dates do not have either.
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_OTHER_DAY = "(?:(?:0[13-9]|1[0-2])-[0-9]{2}|02-(?:[01][0-9]|2[0-8]))"
_DATE = f"(?:{_YEAR}-{_OTHER_DAY}|{_LEAP}-02-29)"
# A minute with a leap second is known from a table only.
_TIME = "[0-9]{2}:[0-9]{2}:[0-5]"
# Of a domain; hyphens at its third and fourth place are for encoded names (RFC 5891, 4.2.3.1).
_LABEL = "(?:[^.@]{1,3}|[^.@]{2}(?:[^.@-][^.@]|-[^.@-])[^.@]{0,59})"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_LIMITS: dict[str, dict[str, Any]] = {
    "date": {"pattern": f"^{_DATE}$"},
    "date-time": {"pattern": f"^{_DATE}[Tt]{_TIME}"},
    "time": {"pattern": f"^{_TIME}"},
    "email": {"pattern": f"^[^@]{{1,64}}@{_DOMAIN}$", "maxLength": 254},
    "hostname": {"pattern": f"^{_DOMAIN}$", "maxLength": 253},
}


def with_exact_formats(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose formats are narrowed to what fits them in every point.

    Left out are the year 0, leap seconds, and encoded names of other scripts.

    Args:
        schema: one that JSON can hold.
    """
    if not any(_limits(found) for _, found in subschemas(schema)):
        return schema
    exact = json.loads(json.dumps(schema))
    for _, found in subschemas(exact):
        if limits := _limits(found):
            found["allOf"] = [*found.get("allOf", ()), limits]
    return exact


def _limits(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what narrows the format of a schema; nothing if that says enough."""
    kind = schema.get("format")
    # llguidance names a list that is none.
    if not isinstance(kind, str) or not isinstance(schema.get("allOf", []), list):
        return {}
    return _LIMITS.get(kind, {})
