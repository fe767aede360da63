"""Expressions of JSON schemas that mean something else in Rust, whose syntax llguidance reads.

JSON Schema has the regular expressions of JavaScript (ECMA-262).
"""

import re

# An escape, a class as ECMA-262 reads one, the beginning of a group, or a character. A class that
# does not end goes to the end of the text, so that the time is linear in it.
_PARTS = re.compile(r"\\.|\[\^?(?:\\.?|[^\\\]])*+\]?|\(\?P?.?|.", re.DOTALL)
_ESCAPE = re.compile(r"\\.", re.DOTALL)
# Of letters and digits; before any other sign both leave the sign as it is.
_ESCAPES = frozenset("bBdDfnpPrsStuvwWx")
_GROUPS = (":", "=", "!", "<", "P<", "P=")
_SETS = re.compile(r"\[|&&|--|~~")


def other_meaning(pattern: str) -> str | None:
    """Return the part of an expression that Rust reads in another way; None where all is alike.

    Left out are `.`, which in ECMA-262 matches no carriage return and no U+2028 and U+2029, and
    `\\s`, which has U+FEFF there and not U+0085.
    """
    for found in _PARTS.finditer(pattern):
        part = found[0]
        if part.startswith("\\"):
            is_other = _is_other_escape(pattern[found.start() : found.start() + 3])
        elif part.startswith("(?"):
            is_other = not part[2:].startswith(_GROUPS)
        else:
            is_other = len(part) > 1 and _is_other_class(part)
        if is_other:
            return part
    return None


def _is_other_class(part: str) -> bool:
    body = part[1:-1].removeprefix("^")
    escapes = (body[found.start() : found.start() + 3] for found in _ESCAPE.finditer(body))
    without = _ESCAPE.sub("a", body)
    return not body or any(map(_is_other_escape, escapes)) or bool(_SETS.search(without))


def _is_other_escape(text: str) -> bool:
    """Return whether a text begins with an escape that ECMA-262 lacks; has up to 3 characters."""
    name = text[1:2]
    if name == "x" or name in ("p", "P"):
        # Rust also knows \x{41} and \pL.
        return text[2:] == "{" if name == "x" else text[2:] != "{"
    return name.isascii() and name.isalnum() and name not in _ESCAPES
