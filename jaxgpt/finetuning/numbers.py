"""Examples about numbers, as many as are wanted: sums, and numbers in the words of languages.

Every answer can be checked, and a small model can learn them. The rows are a pure function of the
arguments: numbers are drawn without replacement, so that no row is there twice.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxgpt.errors import UsageError, is_machine_error
from jaxgpt.names.packages import import_package, install_advice

MAX_DIGITS = 9

Row = dict[str, str]


class NumberJob(NamedTuple):
    """A way to make the rows of a job.

    Attributes:
        make_rows: from (digits, languages, most rows, random) to rows.
        num_languages: languages that it needs.
    """

    make_rows: Callable[[int, Sequence[str], int, random.Random], Iterator[Row]]
    num_languages: int


def addition(digits: int, languages: Sequence[str], most: int, rng: random.Random) -> Iterator[Row]:
    """Yield rows such as {"prompt": "37+58", "completion": "95"}.

    Both numbers have `digits` digits, the first of them not 0.
    """
    first = 10 ** (digits - 1) if digits > 1 else 0
    number = 10**digits - first
    for pair in _draw(number * number, most, rng):
        left, right = (first + part for part in divmod(pair, number))
        yield {"prompt": f"{left}+{right}", "completion": str(left + right)}


def words(digits: int, languages: Sequence[str], most: int, rng: random.Random) -> Iterator[Row]:
    """Yield rows such as {"prompt": "58", "completion": "fifty-eight"}.

    Numbers have at most `digits` digits.
    """
    (write,) = map(_writer, languages)
    for number in _draw(10**digits, most, rng):
        yield {"prompt": str(number), "completion": write(number)}


def translation(
    digits: int, languages: Sequence[str], most: int, rng: random.Random
) -> Iterator[Row]:
    """Yield rows such as {"source": "fifty-eight", "target": "achtundfünfzig"}.

    Numbers have at most `digits` digits.
    """
    read, write = map(_writer, languages)
    for number in _draw(10**digits, most, rng):
        yield {"source": read(number), "target": write(number)}


JOBS = {
    "addition": NumberJob(addition, 0),
    "words": NumberJob(words, 1),
    "translation": NumberJob(translation, 2),
}


def _draw(number: int, most: int, rng: random.Random) -> list[int]:
    """Return at most `most` different numbers below `number`."""
    return rng.sample(range(number), min(most, number))


def _writer(language: str) -> Callable[[int], str]:
    """Return a function from a number to its words.

    Raises:
        ConfigError: the package is missing.
        UsageError: it does not have that language, or not these numbers in it.
    """
    package = import_package("num2words", "words of numbers", install_advice("metrics"))
    known = sorted(package.CONVERTER_CLASSES)
    if language not in known:
        raise UsageError(
            f"--languages {language} is no language of num2words; allowed: {', '.join(known)}"
        )

    def write(number: int) -> str:
        try:
            return package.num2words(number, lang=language)
        except Exception as error:  # Some languages lack some numbers, each in its own way.
            if is_machine_error(error):
                raise
            raise UsageError(
                f"--languages {language}: num2words does not write {number} in that language; "
                "choose fewer --digits, or another language"
            ) from error

    return write
