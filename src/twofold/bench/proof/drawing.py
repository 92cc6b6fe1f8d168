"""What every plot is made of: frame, axes, legend, marks and labels that keep out of each other's way.

Everything is drawn for a width of 360 pixels, about that of a phone, so that text stays legible there. Colours are
classes that the page gives a value in both themes. Contenders also differ by line (the baseline's is dashed) and by
mark (the baseline's is a square).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from twofold.bench.proof.axes import Scale, plain
from twofold.bench.proof.model import Role
from twofold.bench.proof.svg import Svg, element, group

WIDTH, HEIGHT = 360.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 348.0, 26.0, 198.0
LINE_HEIGHT = 13.5
LETTER = 5.7
"""About the width of a letter of the plots' text, which is 11 pixels high."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A scale, what it shows in which unit, how its figures are written ("" for one without a label), and how many."""

    scale: Scale
    title: str
    write: Callable[[float], str] = plain
    most: int = 5

    def labels(self) -> list[tuple[float, str]]:
        """Places and texts."""
        written = [(self.scale(tick), self.write(tick)) for tick in self.scale.ticks(self.most)]
        return [(place, text) for place, text in written if text]


def canvas(drawn: Sequence[Svg], title: str, height: float = HEIGHT) -> Svg:
    """The whole plot; title is what a screen reader says."""
    return element("svg", *drawn, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=title, class_="plot")


def frame(x: Axis, y: Axis) -> list[Svg]:
    """Grid lines, labels and titles of both axes; it ends on the right where x does."""
    drawn, right = [], x.scale.end
    for place, text in x.labels():
        drawn.append(element("line", x1=place, x2=place, y1=TOP, y2=BOTTOM, class_="grid"))
        drawn.append(label(place, BOTTOM + 15, text, "middle"))
    for place, text in y.labels():
        drawn.append(element("line", x1=LEFT, x2=right, y1=place, y2=place, class_="grid"))
        drawn.append(label(LEFT - 6, place + 4, text, "end"))
    drawn.append(element("path", d=f"M{LEFT} {TOP}V{BOTTOM}H{right}", class_="axis"))
    drawn.append(label((LEFT + right) / 2, BOTTOM + 34, x.title, "middle", "title"))
    drawn.append(label(2, 12, y.title, "start", "title"))
    return drawn


def label(x: float, y: float, text: str, anchor: str, kind: str = "label") -> Svg:
    """A line of text. anchor: start, middle or end."""
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=kind)


def legend(roles: Iterable[Role]) -> Svg:
    """Line and mark of each contender, above the plot on the right."""
    drawn, right = [], RIGHT
    for role in list(roles)[::-1]:
        start = right - LETTER * len(role) - 4
        drawn.append(label(start, 12, role, "start", f"label {role}-text"))
        drawn.append(element("path", d=f"M{start - 30} 8H{start - 6}", class_=f"line {role}"))
        drawn.append(mark(role, start - 18, 8))
        right = start - 40
    return group(drawn)


def mark(role: Role, x: float, y: float, hover: str = "") -> Svg:
    """A round mark for the candidate, a square one for the baseline. hover: what is told under the pointer."""
    told = [element("title", hover)] if hover else []
    if role == "candidate":
        return element("circle", *told, cx=x, cy=y, r=3.6, class_=f"mark {role}")
    return element("rect", *told, x=x - 3.2, y=y - 3.2, width=6.4, height=6.4, class_=f"mark {role}")


def level(y: float, kind: str, hover: str, right: float = RIGHT) -> Svg:
    """A line from side to side."""
    return element("path", element("title", hover), d=f"M{LEFT} {y:.2f}H{right}", class_=kind)


def names_above(levels: Sequence[tuple[float, str]]) -> list[Svg]:
    """Names of lines, each just above its own at the left side, moved apart where they would touch."""
    places = apart([place - 4 for place, _ in levels], TOP + 9, BOTTOM - 3)
    return [
        label(LEFT + 4, place, text, "start", "label halo") for place, (_, text) in zip(places, levels, strict=True)
    ]


def names_beside(levels: Sequence[tuple[float, str]], right: float) -> list[Svg]:
    """Names of lines, each at the right end of its own, moved apart where they would touch."""
    places = apart([place + 4 for place, _ in levels], TOP + 4, BOTTOM + 4)
    return [label(right + 5, place, text, "start") for place, (_, text) in zip(places, levels, strict=True)]


def apart(places: Sequence[float], low: float, high: float, gap: float = LINE_HEIGHT) -> list[float]:
    """The places of lines of text, moved as little as needed to be `gap` from each other and within low and high.

    Too many for the room lie as far apart as it lets them.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    gap = min(gap, (high - low) / max(len(places) - 1, 1))
    found = list(places)
    floor = low
    for index in order:
        found[index] = floor = max(found[index], floor)
        floor += gap
    ceiling = high
    for index in order[::-1]:
        found[index] = ceiling = min(found[index], ceiling)
        ceiling -= gap
    return found


def shortened(text: str, most: int) -> str:
    """At most `most` letters, with a sign that some are missing."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
