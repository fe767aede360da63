"""Result of a measure, for a program and for people."""

import dataclasses
import importlib.metadata
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """Another way to do the same, measured by turns with jaxgpt's.

    Attributes:
        ratio: above 1, jaxgpt's is faster.
    """

    name: str
    value: float
    ratio: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """A figure, and what it is to be held against.

    Attributes:
        value: the median of all rounds; more is better.
        floor: what the machine could reach if it did nothing but `floor_is`, in the same unit.
        spread: the lowest and the highest round.
        settings: what was measured.
    """

    measure: str
    value: float
    unit: str
    floor: float
    floor_is: str
    spread: tuple[float, float]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    against: Baseline | None = None

    @property
    def floor_ratio(self) -> float:
        """The share of the floor's rate that is reached."""
        return self.value / self.floor

    def to_json(self) -> dict[str, Any]:
        """Return the whole result as a JSON object."""
        return {**dataclasses.asdict(self), "floor_ratio": self.floor_ratio}

    def to_text(self) -> str:
        """Return the whole result as a table."""
        rows = [
            (self.measure, f"{self.value:,.2f} {self.unit}"),
            ("lowest, highest", ", ".join(f"{value:,.2f}" for value in self.spread)),
            (f"floor: {self.floor_is}", f"{self.floor:,.2f} {self.unit}"),
            ("share of the floor", f"{self.floor_ratio:.3%}"),
        ]
        if self.against is not None:
            rows.append((self.against.name, f"{self.against.value:,.2f} {self.unit}"))
            rows.append(("jaxgpt is faster by", f"{self.against.ratio:.2f}x"))
        rows += [(name, str(value)) for name, value in self.settings.items()]
        rows += list(self.versions.items())
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


class MeasureConfig(Protocol):
    """A config of a measure."""

    def run(self) -> Measurement:
        """Measure."""
        ...


def measure_interleaved(
    sides: Mapping[str, Callable[[], float]], num_rounds: int
) -> dict[str, tuple[float, tuple[float, float]]]:
    """Call all sides one after the other, so often; whatever else the machine does meets all.

    Returns:
        for each side the median of what it returned, and the lowest and highest.
    """
    values: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(num_rounds):
        for name, side in sides.items():
            values[name].append(side())
    return {
        name: (statistics.median(each), (min(each), max(each))) for name, each in values.items()
    }


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Return versions of Python, the machine and these packages."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{name: importlib.metadata.version(name) for name in packages},
    }
