"""Plots are read back: what they show must be the figures they were given."""

from __future__ import annotations

import math
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from tests.bench.proof.proofs import HOSTILE
from twofold.bench.proof import plots
from twofold.bench.proof.drawing import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from twofold.bench.proof.model import Interval, Role
from twofold.bench.proof.svg import Svg, printable

Point = tuple[float, float]


def parsed(drawing: Svg) -> ET.Element:
    return ET.fromstring(drawing.text)


def path(root: ET.Element, kind: str) -> list[Point]:
    """The points of the first path of a class."""
    found = next(
        item.attrib["d"] for item in root.iter("path") if item.attrib["class"] == kind and "L" in item.attrib["d"]
    )
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", found)]


def axis(root: ET.Element, across: bool, is_log: bool) -> Callable[[float], float]:
    """Figures from places, found from the labelled ticks alone."""
    lines = [item for item in root.iter("line") if item.attrib["class"] == "grid"]
    wanted = [item for item in lines if (item.attrib["x1"] == item.attrib["x2"]) == across]
    places = [float(item.attrib["x1" if across else "y1"]) for item in wanted]
    anchor = "middle" if across else "end"
    labels = [
        item for item in root.iter("text") if item.attrib["class"] == "label" and item.attrib["text-anchor"] == anchor
    ]
    figures = [number(item.text or "") for item in labels][: len(places)]
    (low, high), (first, last) = (figures[0], figures[-1]), (places[0], places[-1])

    def figure(place: float) -> float:
        share = (place - first) / (last - first)
        return low * (high / low) ** share if is_log else low + share * (high - low)

    return figure


def number(text: str) -> float:
    factor = {"k": 1e3, "M": 1e6, "B": 1e9}.get(text[-1], 1.0)
    return float(re.sub(r"[^\d.e-]", "", text)) * factor


def titles(root: ET.Element) -> list[str]:
    return [item.text or "" for item in root.iter("title")]


def marks(root: ET.Element, role: str) -> list[Point]:
    """Centres of the marks that tell something."""
    found = []
    for item in root.iter():
        if item.attrib.get("class") == f"mark {role}" and item.find("title") is not None:
            a = {
                key: float(item.attrib[key]) for key in ("cx", "cy", "x", "y", "width", "height") if key in item.attrib
            }
            found.append((a["cx"], a["cy"]) if "cx" in a else (a["x"] + a["width"] / 2, a["y"] + a["height"] / 2))
    return found


def test_a_distribution_shows_the_share_below_each_value() -> None:
    chance = random.Random(3)
    values = {"baseline": [chance.lognormvariate(4, 0.5) for _ in range(5000)], "candidate": [20.0, 40.0, 60.0, 80.0]}
    root = parsed(plots.distribution(values, "time, ms"))
    value_at, share_at = axis(root, True, True), axis(root, False, False)
    for role, own in values.items():
        points = path(root, f"line {role}")
        for wanted in (0.25, 0.5, 0.75):
            reached = next(x for x, y in points if share_at(y) / 100 >= wanted - 2e-3)
            assert value_at(reached) == pytest.approx(sorted(own)[math.ceil(wanted * len(own)) - 1], rel=0.02)
    assert [share_at(y) for _, y in marks(root, "candidate")] == pytest.approx([50, 99], abs=0.1)
    assert "candidate: half within 40.0" in titles(root)


def test_a_distribution_of_thousands_stays_small() -> None:
    values = {"baseline": [i / 7 for i in range(200_000)], "candidate": [0.0] * 5000}
    drawing = plots.distribution(values, "gap, ms")
    assert len(drawing.text) < 25_000


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0, 5.0], [0.0, 0.0, 3.0], [1e-9, 1e9]])
def test_few_equal_and_odd_values_are_drawn_too(values: list[float]) -> None:
    drawings = [
        plots.distribution({"baseline": values, "candidate": []}, "x"),
        plots.ratio_rounds(list(enumerate(values)), None, None),
        plots.figure_rounds({"baseline": list(enumerate(values)), "candidate": []}, "x"),
        plots.cost_curve(
            {"candidate": [(value, value) for value in values]}, {"a": values[0]}, {"a": values[0]}, "EUR"
        ),
    ]
    for drawing in drawings:
        assert "nan" not in drawing.text
        assert "inf" not in drawing.text
        for item in parsed(drawing).iter():
            assert 0 <= float(item.attrib.get("x", 0)) <= WIDTH
            assert 0 <= float(item.attrib.get("y", 0)) <= HEIGHT


def test_ratios_stand_at_their_rounds_with_target_and_median() -> None:
    rounds = [(1, 2.0), (2, 2.5), (3, 3.0)]
    root = parsed(plots.ratio_rounds(rounds, Interval(median=2.5, low=2.0, high=3.0), 2.25))
    ratio_at, round_at = axis(root, False, False), axis(root, True, False)
    assert [(round_at(x), ratio_at(y)) for x, y in marks(root, "candidate")] == [
        pytest.approx(item, abs=0.02) for item in rounds
    ]
    levels = {item.attrib["class"]: item for item in root.iter("path") if item.find("title") is not None}
    for kind, ratio in (("line candidate", 2.5), ("limit", 2.25), ("even", 1.0)):
        place = float(levels[kind].attrib["d"].split()[1].split("H")[0])
        assert ratio_at(place) == pytest.approx(ratio, abs=0.02)
    band = next(item for item in root.iter("rect") if item.attrib["class"] == "band")
    top, height = float(band.attrib["y"]), float(band.attrib["height"])
    assert [ratio_at(top), ratio_at(top + height)] == pytest.approx([3.0, 2.0], abs=0.02)
    assert {"median 2.50x", "target 2.25x", "1x: the same"} <= {item.text for item in root.iter("text")}


def test_figures_stand_at_their_rounds_above_zero() -> None:
    values: dict[Role, list[tuple[int, float]]] = {
        "baseline": [(1, 40.0), (2, 42.0)],
        "candidate": [(1, 90.0), (3, 95.0)],
    }
    root = parsed(plots.figure_rounds(values, "tokens/s"))
    at = axis(root, False, False)
    for role, pairs in values.items():
        assert [at(y) for _, y in marks(root, role)] == pytest.approx([value for _, value in pairs], abs=0.3)
    assert at(BOTTOM) == pytest.approx(0, abs=0.3)
    assert len([item for item in root.iter("text") if item.text in ("1", "2", "3")]) == 3


def test_the_plane_has_the_limit_between_what_passes_and_what_fails() -> None:
    speeds: dict[Role, Interval] = {
        "baseline": Interval(median=40, low=39, high=41), "candidate": Interval(median=98, low=95, high=99)
    }  # fmt: skip
    for best, value, limit in ((0.0, 0.03, 0.02), (0.0, 0.01, 0.02), (1.0, 0.9, 0.95), (1.0, 0.97, 0.95)):
        is_most = best == 0
        drawing = plots.plane(
            speeds, {"baseline": best, "candidate": value}, "KL", str, plots.Limit(value=limit, is_most=is_most), best
        )
        root = parsed(drawing)
        ((across, down),) = marks(root, "candidate")
        failing = next(item for item in root.iter("rect") if item.attrib["class"] == "failing")
        assert (down > float(failing.attrib["y"])) == ((value > limit) if is_most else (value < limit))
        assert axis(root, True, False)(across) == pytest.approx(98, abs=0.5)
        assert marks(root, "baseline")[0][1] < min(down, float(failing.attrib["y"]))


def test_the_roofline_sets_bytes_against_the_limit() -> None:
    root = parsed(plots.roofline({"candidate": (11e9, 20e9)}))
    at = axis(root, True, False)
    bar = next(item for item in root.iter("rect") if item.attrib["class"] == "bar candidate")
    assert at(LEFT + float(bar.attrib["width"])) == pytest.approx(11, abs=0.1)
    wall = next(item for item in root.iter("path") if item.attrib["class"] == "limit")
    assert at(float(wall.attrib["d"].split()[0][1:])) == pytest.approx(20, abs=0.1)
    assert "candidate: 11.0 GB/s = 55 % of 20.0" in {item.text for item in root.iter("text")}


def test_the_cost_curve_meets_the_hosted_price_where_it_is_said() -> None:
    curve = [(1e6, 100.0), (1e7, 10.0), (1e8, 1.0)]
    root = parsed(plots.cost_curve({"candidate": curve}, {"host": 5.0, "dear": 6.0}, {"host": 2e7}, "EUR"))
    volume_at, cost_at = axis(root, True, True), axis(root, False, True)
    assert [(volume_at(x), cost_at(y)) for x, y in path(root, "line candidate")] == [
        pytest.approx(item, rel=0.02) for item in curve
    ]
    ring = next(item for item in root.iter("circle") if item.attrib["class"] == "ring")
    assert volume_at(float(ring.attrib["cx"])) == pytest.approx(2e7, rel=0.02)
    assert cost_at(float(ring.attrib["cy"])) == pytest.approx(5.0, rel=0.02)
    assert {"host: 5.00", "dear: 6.00"} <= {item.text for item in root.iter("text")}


def test_names_of_hosts_are_text() -> None:
    root = parsed(plots.cost_curve({"candidate": [(1e6, 1.0)]}, {HOSTILE: 1.0}, {HOSTILE: 1e6}, HOSTILE))
    assert {item.tag for item in root.iter()} == {"svg", "g", "line", "text", "path", "circle", "title", "rect"} - {
        "rect"
    }
    assert any(printable(HOSTILE) in title for title in titles(root))


def test_small_bars_share_a_scale_and_stay_inside() -> None:
    ratios = [
        Interval(median=2, low=1.5, high=2.5),
        Interval(median=0.001, low=0, high=0.5),
        Interval(median=90, low=9, high=400),
    ]
    scale = plots.bar_scale(ratios, 2.0)
    for ratio in ratios:
        for item in parsed(plots.bar(ratio, scale, 2.0)).iter("rect"):
            left = float(item.attrib["x"])
            assert 0 <= left <= left + float(item.attrib["width"]) <= plots.BAR_WIDTH
    assert {item.text for item in parsed(plots.bar_axis(scale, 2.0)).iter("text")} == {"1x", "2x"}
    assert {item.text for item in parsed(plots.bar_axis(scale, 1.1)).iter("text")} == {"1x"}


def test_plots_stay_within_their_paper() -> None:
    assert 0 < LEFT < RIGHT < WIDTH
    assert 0 < TOP < BOTTOM < HEIGHT
