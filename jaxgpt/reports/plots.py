"""Figures of all reports, in one quiet style: numbers in, SVG text out.

The SVG stands alone (no fonts or scripts from elsewhere), scales with the page, and keeps its
labels as text, so that they can be selected and take the page's font. Equal input gives equal
output. Knows nothing of runs or datasets.
"""

import functools
import importlib
import io
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

from jaxgpt.names.packages import describe, install_advice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

P = ParamSpec("P")

# Okabe and Ito's colours, without the yellow: told apart by colour-blind readers and in grey print.
COLORS = ("#0b6e99", "#d55e00", "#009e73", "#8f5a9e", "#7a7a7a", "#56b4e9")
# What stands behind what is set apart.
_PALE = ("#b8c4ce", "#dde3e8")
_INK, _GREY, _GRID = "#24292f", "#57606a", "#e4e7eb"
_STYLE: Any = {
    "axes.edgecolor": _GREY,
    "axes.grid": True,
    "axes.labelcolor": _GREY,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxgpt",
    "text.color": _INK,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
}


_NO_FIGURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 690 40">'
    f'<text x="8" y="25" font-size="13" fill="{_GREY}">'
    "There is no figure here: the package matplotlib could not be imported.</text></svg>"
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series of a `line_chart`.

    Attributes:
        name: for the legend; empty: not in it.
        x: numbers, as many as `y`.
        y: numbers; NaN and infinity leave a gap.
        marked: draw a dot at each point.
        faint: draw as background, for raw values behind their mean.
        color: which of `COLORS`; None: the line's own place.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    marked: bool = False
    faint: bool = False
    color: int | None = None


def _without_matplotlib(draw: Callable[P, str]) -> Callable[P, str]:
    """Wrap a figure so that a report says why it lacks it instead of failing after long work."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        return draw(*args, **kwargs) if _has_matplotlib() else _NO_FIGURE

    return drawn


@functools.cache
def _has_matplotlib() -> bool:
    try:
        importlib.import_module("matplotlib.figure")
    except Exception as error:  # A broken package raises anything.
        logger.warning(
            "reports have no figures: the package matplotlib cannot be imported (%s); %s",
            describe(error),
            install_advice(),
        )
        return False
    return True


@_without_matplotlib
def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    levels: Mapping[str, float] | None = None,
    y_scale: Literal["linear", "log"] = "linear",
    from_zero: bool = False,
    y_top: float | None = None,
    width_inches: float = 7.2,
    height_inches: float = 2.9,
) -> str:
    """Return the SVG of lines over a common axis.

    Args:
        lines: what to draw, back to front.
        x_label: below the axis; with its unit.
        y_label: above the axis; with its unit.
        levels: horizontal dashed lines, by label, such as a baseline.
        y_scale: "log" needs positive values; others leave gaps.
        from_zero: start the y axis at 0.
        y_top: end the y axis here; lines above leave the frame. None: at the highest value.
        width_inches: at 96 pixels an inch on screen; the page may scale it.
        height_inches: likewise.
    """
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(width_inches, height_inches)
        for place, line in enumerate(lines):
            color = COLORS[(place if line.color is None else line.color) % len(COLORS)]
            axes.plot(
                line.x,
                [y if _is_drawable(y, y_scale) else math.nan for y in line.y],
                color=color,
                alpha=0.3 if line.faint else 1.0,
                linewidth=1.0 if line.faint else 1.6,
                marker="o" if line.marked or len(line.x) == 1 else None,
                markersize=3.5,
                label=line.name or "_",
            )
        for label, level in (levels or {}).items():
            axes.axhline(level, color=_GREY, linewidth=1.1, linestyle=(0, (4, 3)), label=label)
        if any(_is_drawable(y, y_scale) for line in lines for y in line.y):
            axes.set_yscale(y_scale)
        if from_zero:
            axes.set_ylim(bottom=0)
        if y_top is not None:
            axes.set_ylim(top=y_top)
        axes.margins(x=0.01)
        axes.grid(visible=False, axis="x")
        _write_ticks_alike(axes.xaxis)
        if axes.get_yscale() == "linear":
            _write_ticks_alike(axes.yaxis)
        _label(axes, x_label, y_label)
        return _svg(figure)


@_without_matplotlib
def bar_chart(
    values: Mapping[str, float],
    *,
    x_label: str,
    width_inches: float = 7.2,
    highlighted: str | None = None,
    level: float | None = None,
) -> str:
    """Return the SVG of horizontal bars, first on top, each with its value at its end.

    Args:
        values: length of each bar by its label; finite, not negative.
        x_label: what the values are, with their unit.
        width_inches: at 96 pixels an inch on screen; the height follows from the number of bars.
        highlighted: label of a bar to set apart; None: all alike.
        level: a value to hold all bars against, drawn as a line across them.
    """
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(width_inches, 0.62 + 0.3 * max(1, len(values)))
        others = COLORS[0] if highlighted is None else _PALE[0]
        places = range(len(values))
        axes.barh(
            places,
            list(values.values()),
            height=0.62,
            color=[COLORS[0] if label == highlighted else others for label in values],
        )
        for place, value in zip(places, values.values(), strict=True):
            _write_value(axes, value, place)
        if level is not None:
            axes.axvline(level, color=_GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
        _finish_bars(axes, list(values), x_label)
        return _svg(figure)


@_without_matplotlib
def stacked_bar_chart(
    series: Mapping[str, Sequence[float]],
    labels: Sequence[str],
    *,
    x_label: str,
    width_inches: float = 7.2,
) -> str:
    """Return the SVG of horizontal bars, each made of one piece of every series.

    Args:
        series: by name, one value for each label; finite, not negative. The first is set apart.
        labels: of the bars, first on top; each has its sum at its end.
        x_label: what the values are, with their unit.
        width_inches: at 96 pixels an inch on screen; the height follows from the number of bars.
    """
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        # Room for the legend above the bars.
        figure, axes = _figure(width_inches, 0.92 + 0.3 * max(1, len(labels)))
        starts = [0.0] * len(labels)
        for number, (name, values) in enumerate(series.items()):
            color = COLORS[0] if number == 0 else _PALE[(number - 1) % len(_PALE)]
            axes.barh(range(len(labels)), values, 0.62, starts, color=color, label=name)
            starts = [start + value for start, value in zip(starts, values, strict=True)]
        for place, value in enumerate(starts):
            _write_value(axes, value, place)
        _finish_bars(axes, labels, x_label)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series), borderpad=0.2)
        return _svg(figure)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return for each value the mean of the `window` values around it, fewer at both ends.

    Values that are not finite are left out of the means; a mean of none is NaN.
    """
    means: list[float] = []
    for place in range(len(values)):
        reach = min(window // 2, place, len(values) - 1 - place)
        around = values[place - reach : place + reach + 1]
        finite = [value for value in around if math.isfinite(value)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means


def _figure(width_inches: float, height_inches: float) -> "tuple[Figure, Axes]":
    # Figures are made without pyplot: no global state, no display, nothing to close.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), dpi=96, layout="constrained")
    return figure, figure.add_subplot()


def _write_value(axes: "Axes", value: float, place: int) -> None:
    """Write a value at the end of a horizontal bar."""
    axes.annotate(
        _short_number(value),
        (value, place),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
    )


def _finish_bars(axes: "Axes", labels: Sequence[str], x_label: str) -> None:
    axes.set_yticks(range(len(labels)), labels, color=_INK)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    _write_ticks_alike(axes.xaxis)
    axes.set_xlabel(x_label)


def _is_drawable(value: float, scale: str) -> bool:
    return math.isfinite(value) and (scale == "linear" or value > 0)


def _label(axes: "Axes", x_label: str, y_label: str) -> None:
    """Name both axes; the y label lies flat, above its axis, where it is easy to read."""
    axes.set_xlabel(x_label)
    axes.set_title(y_label, loc="left", fontsize=9, color=_GREY, pad=8)
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        # Next to the y label, where it hides no curve.
        axes.legend(
            handles,
            labels,
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            ncols=len(labels),
            fontsize=8.5,
            handlelength=1.3,
            handletextpad=0.5,
            columnspacing=1.0,
            borderaxespad=0.2,
        )


def _svg(figure: "Figure") -> str:
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=metadata)
    text = buffer.getvalue()
    # Without the XML prologue, and without the names that all figures share, the text can stand
    # several times inside one HTML page.
    referenced = set(re.findall(r"#([\w-]+)", text))

    def keep_referenced(match: re.Match[str]) -> str:
        return match[0] if match[1] in referenced else ""

    return re.sub(r' id="([\w.-]+)"', keep_referenced, text[text.index("<svg") :])


def _write_ticks_alike(axis: "Axis") -> None:
    """Give all ticks of an axis one notation, one suffix, and as many decimals."""
    from matplotlib.ticker import Formatter

    class Alike(Formatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return _short_number(x)

        def format_ticks(self, values: Sequence[float]) -> list[str]:
            return [format_tick(value, values) for value in values]

    axis.set_major_formatter(Alike())


def format_tick(value: float, ticks: Sequence[float]) -> str:
    """Write a tick in the notation that fits all `ticks`: 0.0002, 2e-5, 12.5k, 3M."""
    largest = max(map(abs, ticks), default=0.0)
    if not value or not math.isfinite(value):
        return "0" if not value else str(value)
    if 0 < largest < 1e-4:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    limits = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, ""))
    unit, suffix = next((unit, suffix) for limit, unit, suffix in limits if largest >= limit)
    scaled = [tick / unit for tick in ticks]
    decimals = next(
        (number for number in range(6) if all(_has_decimals(each, number) for each in scaled)), 6
    )
    return f"{value / unit:.{decimals}f}{suffix}"


def _has_decimals(value: float, number: int) -> bool:
    """Return whether a value needs no more decimals than that."""
    return math.isclose(round(value, number), value, rel_tol=1e-6, abs_tol=1e-9)


def _short_number(value: float) -> str:
    """Write 1.23, 0.001, 12.5k, 3.4M: three digits where they are needed."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if suffix == 'k' else limit):.3g}{suffix}"
    if value and abs(value) < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:.4g}"
