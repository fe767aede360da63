"""Figures: self-contained SVG, labels as text, equal for equal input, safe with bad values."""

import math
import re
import warnings
import xml.etree.ElementTree as ElementTree

import pytest

from jaxgpt.reports.plots import (
    Line,
    bar_chart,
    format_tick,
    line_chart,
    running_mean,
    stacked_bar_chart,
)


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter() if "text" in node.tag]


def path_points(svg: str) -> list[int]:
    """How many points each drawn line has, from its path's commands."""
    paths = re.findall(r'<path d="(M [^"]*)"[^>]*style="fill: none; stroke: #0b6e99', svg)
    return [len(re.findall(r"[ML] ", path)) for path in paths]


def test_a_line_chart_says_what_it_shows_and_needs_nothing_else() -> None:
    lines = [Line(name="training", x=[1, 2, 3], y=[3.0, 2.0, 1.5])]
    svg = line_chart(lines, x_label="step", y_label="loss (nats)", levels={"n-gram": 1.7})
    assert svg.startswith("<svg")
    assert {"training", "step", "loss (nats)", "n-gram"} <= set(texts(svg))
    references = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', svg)
    assert all((a or b).startswith("#") for a, b in references)
    assert "<script" not in svg


def test_equal_input_gives_equal_output() -> None:
    lines = [Line(name="a", x=[0, 1], y=[0.1, 0.2]), Line(name="b", x=[0, 1], y=[1, 2])]
    assert line_chart(lines, x_label="x", y_label="y") == line_chart(
        lines, x_label="x", y_label="y"
    )


def test_labels_are_escaped() -> None:
    svg = bar_chart({"<b>&": 3.0}, x_label="x < y & z")
    assert "<b>" not in svg
    assert {"<b>&", "x < y & z"} <= set(texts(svg))


def test_values_that_are_not_finite_leave_a_gap() -> None:
    whole = line_chart([Line(name="", x=[0, 1, 2, 3], y=[1, 2, 3, 4])], x_label="", y_label="")
    gap = line_chart([Line(name="", x=[0, 1, 2, 3], y=[1, 2, math.inf, 4])], x_label="", y_label="")
    assert path_points(whole) == [4]
    assert sum(path_points(gap)) < 4
    assert "inf" not in gap


@pytest.mark.parametrize("y", [[], [2.0], [math.nan, math.nan], [0.0, 0.0], [1e30, -1e30]])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_short_and_extreme_series_draw_without_a_warning(y: list[float], scale) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = line_chart(
            [Line(name="", x=range(len(y)), y=y)], x_label="step", y_label="v", y_scale=scale
        )
    ElementTree.fromstring(svg)


def test_bars_carry_their_values() -> None:
    svg = bar_chart({"kept": 12_345, "too short": 321, "none": 0}, x_label="documents")
    assert {"kept", "12.3k", "321", "too short", "none"} <= set(texts(svg))
    ElementTree.fromstring(bar_chart({}, x_label="documents"))


def test_the_running_mean_is_centred_and_keeps_both_ends() -> None:
    assert running_mean([1, 2, 3, 4, 100], 3) == pytest.approx([1, 2, 3, 107 / 3, 100])
    assert running_mean([5.0] * 7, 100) == [5.0] * 7
    assert running_mean([1, math.nan, 3], 3) == pytest.approx([1, 2, 3])
    assert math.isnan(running_mean([math.inf], 3)[0])
    assert running_mean([], 3) == []


def test_stacked_bars_have_their_sums_and_a_legend_and_are_the_same_again() -> None:
    def draw() -> str:
        series = {"kept": [3, 0, 5000], "dropped": [4, 0, 40_000]}
        return stacked_bar_chart(series, ["short", "none", "long"], x_label="documents")

    labels = {"short", "none", "long", "kept", "dropped", "documents", "7", "45k"}
    assert labels <= set(texts(draw()))
    assert draw() == draw()


@pytest.mark.parametrize(
    ("ticks", "written"),
    [
        ([0, 0.0002, 0.0004, 0.001], ["0", "0.0002", "0.0004", "0.0010"]),
        ([0, 2e-5, 8e-5], ["0", "2e-5", "8e-5"]),
        ([0, 5000, 10_000, 12_500], ["0", "5.0k", "10.0k", "12.5k"]),
        ([0, 500_000, 1_000_000], ["0", "0.5M", "1.0M"]),
        ([-1, 0, 1], ["-1", "0", "1"]),
        ([2.5, 3.0], ["2.5", "3.0"]),
    ],
)
def test_all_ticks_of_an_axis_have_one_notation(ticks: list[float], written: list[str]) -> None:
    assert [format_tick(tick, ticks) for tick in ticks] == written
