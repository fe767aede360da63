"""Scripts of documents: letters counted by Unicode block.

Axes: C code points, D documents, S scripts.
"""

import functools
import string
import sys
from collections.abc import Sequence

import numpy as np

from jaxgpt.corpus.text.characters import chunks

# Blocks that hold the letters of each script, first and last code point (Unicode 16, Blocks.txt).
BLOCKS = {
    "Latin": ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF)),
    "Cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Armenian": ((0x530, 0x58F),),
    "Hebrew": ((0x590, 0x5FF),),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
    "Devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "Bengali": ((0x980, 0x9FF),),
    "Gurmukhi": ((0xA00, 0xA7F),),
    "Gujarati": ((0xA80, 0xAFF),),
    "Oriya": ((0xB00, 0xB7F),),
    "Tamil": ((0xB80, 0xBFF),),
    "Telugu": ((0xC00, 0xC7F),),
    "Kannada": ((0xC80, 0xCFF),),
    "Malayalam": ((0xD00, 0xD7F),),
    "Sinhala": ((0xD80, 0xDFF),),
    "Thai": ((0xE00, 0xE7F),),
    "Lao": ((0xE80, 0xEFF),),
    "Tibetan": ((0xF00, 0xFFF),),
    "Myanmar": ((0x1000, 0x109F),),
    "Georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "Ethiopic": ((0x1200, 0x139F), (0x2D80, 0x2DDF)),
    "Khmer": ((0x1780, 0x17FF),),
    "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7FF)),
    "Kana": ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    "Han": ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
}
SCRIPTS = tuple(BLOCKS)
# Written without spaces between words.
UNSPACED = ("Thai", "Lao", "Tibetan", "Myanmar", "Khmer", "Kana", "Han")
UNSPACED_BLOCKS = tuple(block for script in UNSPACED for block in BLOCKS[script])
_OTHER = len(SCRIPTS)
_UNSPACED = [SCRIPTS.index(script) for script in UNSPACED]
_NOT_ASCII_LETTERS = bytes(set(range(256)) - set(string.ascii_letters.encode()))


def letters_by_script(texts: Sequence[str]) -> np.ndarray:
    """Count the letters of each script in each document, in the order of SCRIPTS: int64 [D, S].

    Signs and digits in the block of a script count as its letters, but for ASCII and Latin-1.
    """
    counts_DS = _letters_beyond_ascii(texts)
    counts_DS[:, SCRIPTS.index("Latin")] += np.array([*map(_count_ascii_letters, texts)], np.int64)
    return counts_DS


def is_spaced(letters_DS: np.ndarray) -> np.ndarray:
    """Return whether half of the letters or more are of scripts with spaces: bool [D]."""
    return 2 * letters_DS[:, _UNSPACED].sum(1) <= letters_DS.sum(1)


def is_spaced_text(texts: Sequence[str]) -> np.ndarray:
    """Return `is_spaced` of each text; fast, because most have no letter of other scripts."""
    letters_DS = _letters_beyond_ascii(texts)
    for document in np.flatnonzero(letters_DS[:, _UNSPACED].any(1)).tolist():
        letters_DS[document, SCRIPTS.index("Latin")] += _count_ascii_letters(texts[document])
    return is_spaced(letters_DS)


def _letters_beyond_ascii(texts: Sequence[str]) -> np.ndarray:
    counts_DS = np.zeros((len(texts), len(SCRIPTS)), np.int64)
    others = [number for number, text in enumerate(texts) if not text.isascii()]
    table = _script_of_code_point()
    for documents, codes_C, starts_D in chunks([texts[number] for number in others]):
        places = np.flatnonzero(codes_C > 0x7F)
        document = np.searchsorted(starts_D, places, side="right") - 1
        cells = document * (_OTHER + 1) + table[codes_C[places]]
        counts = np.bincount(cells, minlength=len(starts_D) * (_OTHER + 1))
        counts_DS[np.array(others[documents])] = counts.reshape(-1, _OTHER + 1)[:, :_OTHER]
    return counts_DS


def _count_ascii_letters(text: str) -> int:
    return len(text.encode(errors="surrogatepass").translate(None, delete=_NOT_ASCII_LETTERS))


@functools.cache
def _script_of_code_point() -> np.ndarray:
    table = np.full(sys.maxunicode + 1, _OTHER, np.uint8)
    for number, blocks in enumerate(BLOCKS.values()):
        for first, last in blocks:
            table[first : last + 1] = number
    table[[0xD7, 0xF7]] = _OTHER  # the signs of multiplication and division
    return table
