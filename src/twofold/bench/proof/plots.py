"""The plots of a proof: figures in, SVG out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from twofold.bench.proof import drawing
from twofold.bench.proof.axes import Scale, even_scale, figure, log_scale, short, thinned, times
from twofold.bench.proof.drawing import BOTTOM, LEFT, RIGHT, TOP, Axis, canvas, frame, label, legend, level, mark
from twofold.bench.proof.model import Interval, Role
from twofold.bench.proof.statistics import percentile
from twofold.bench.proof.svg import Svg, element, path_of

MOST_POINTS = 200
MOST_LETTERS = 34
NAMES_AT = 276.0
"""Where a plot ends that names its lines on the right."""
BAR_WIDTH, BAR_HEIGHT = 150.0, 20.0
MOST_TIMES = 5.0
"""Bars end where a ratio is this many times the target, or so much below 1x."""
Point = tuple[float, float]


def distribution(values: Mapping[Role, Sequence[float]], title: str) -> Svg:
    """Empirical distributions on a logarithmic axis: the share of values that do not exceed each one.

    Half and 99 of 100 are marked. Zeros count at the left edge.
    """
    x = Axis(scale=log_scale([value for own in values.values() for value in own], LEFT, RIGHT), title=title)
    y = Axis(scale=Scale(low=0, high=1, start=BOTTOM, end=TOP), title="share", write=lambda share: f"{100 * share:g} %")
    drawn = frame(x, y)
    for role, own in values.items():
        if not own:
            continue
        drawn.append(element("path", d=stairs(thinned(own, MOST_POINTS), x.scale, y.scale), class_=f"line {role}"))
        for share, words in ((50, "half"), (99, "99 of 100")):
            value = percentile(own, share)
            drawn.append(mark(role, x.scale(value), y.scale(share / 100), f"{role}: {words} within {figure(value)}"))
    return canvas([*drawn, legend(values)], f"Distribution: {title}")


def stairs(points: Sequence[Point], x: Scale, y: Scale) -> str:
    """The path of a distribution: it goes up where values are."""
    height = y(0)
    places = [(x(points[0][0]), height)]
    for value, share in points:
        places += [(x(value), height), (x(value), y(share))]
        height = y(share)
    return path_of([*places, (x.end, height)])


def ratio_rounds(rounds: Sequence[tuple[int, float]], middle: Interval | None, target: float | None) -> Svg:
    """The ratio of every round, with the median and its interval as a band, the target, and 1x: no difference."""
    known = [1.0, *(ratio for _, ratio in rounds), *([target] if target else [])]
    known += [middle.low, middle.high] if middle else []
    y = Axis(scale=even_scale(known, BOTTOM, TOP), title="candidate, times as good", write=lambda at: f"{at:g}x")
    x = round_axis([number for number, _ in rounds], NAMES_AT)
    drawn = frame(x, y)
    names = [(y.scale(1.0), "1x: the same")]
    if middle:
        top, height = y.scale(middle.high), y.scale(middle.low) - y.scale(middle.high)
        drawn.append(element("rect", x=LEFT, y=top, width=NAMES_AT - LEFT, height=max(height, 1), class_="band"))
        drawn.append(level(y.scale(middle.median), "line candidate", f"median {times(middle.median)}", NAMES_AT))
        names.append((y.scale(middle.median), f"median {times(middle.median)}"))
    drawn.append(level(y.scale(1.0), "even", "1x: the same", NAMES_AT))
    if target:
        drawn.append(level(y.scale(target), "limit", f"target {target:g}x", NAMES_AT))
        names.append((y.scale(target), f"target {target:g}x"))
    drawn += [
        mark("candidate", x.scale(number), y.scale(ratio), f"round {number}: {times(ratio)}")
        for number, ratio in rounds
    ]
    return canvas([*drawn, *drawing.names_beside(names, NAMES_AT)], "Ratio of every round")


def figure_rounds(values: Mapping[Role, Sequence[tuple[int, float]]], title: str) -> Svg:
    """A figure of every round for both contenders; the axis begins at 0."""
    own = [pair for pairs in values.values() for pair in pairs]
    y = Axis(scale=even_scale([0.0, *(value for _, value in own)], BOTTOM, TOP), title=title)
    x = round_axis([number for number, _ in own])
    drawn = frame(x, y)
    for role, pairs in values.items():
        places = [(x.scale(number), y.scale(value)) for number, value in pairs]
        drawn += [element("path", d=path_of(places), class_=f"line {role}")] if places else []
        for (number, value), (across, down) in zip(pairs, places, strict=True):
            drawn.append(mark(role, across, down, f"{role}, round {number}: {figure(value)}"))
    return canvas([*drawn, legend(values)], f"{title}, every round")


def round_axis(numbers: Sequence[int], right: float = RIGHT) -> Axis:
    """Rounds from left to right; only whole ones are labelled."""
    first, last = min(numbers, default=0), max(numbers, default=0)
    scale = Scale(low=first - 0.5, high=last + 0.5, start=LEFT, end=right)
    return Axis(scale=scale, title="round", write=lambda at: f"{at:.0f}" if at == round(at) else "", most=8)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What quality must reach. is_most: the figure may be at most this, else it must be at least this."""

    value: float
    is_most: bool


def plane(
    speeds: Mapping[Role, Interval], qualities: Mapping[Role, float], title: str, write: Callable[[float], str],
    limit: Limit | None, best: float,
) -> Svg:  # fmt: skip
    """Speed to the right, quality upwards. best: the best there can be, at the upper edge. What fails is shaded."""
    bounds = [bound for speed in speeds.values() for bound in (speed.low, speed.high)]
    x = Axis(scale=even_scale([0.0, *bounds], LEFT, RIGHT), title="output tokens per second")
    known = [*qualities.values(), best, *([limit.value] if limit else [])]
    low, high = min(known), max(known)
    room = 0.15 * ((high - low) or abs(best) or 1.0)
    upside_down = best == low
    low, high = (low, high + room) if upside_down else (low - room, high)
    ends = (TOP + 12, BOTTOM) if upside_down else (BOTTOM, TOP + 12)
    y = Axis(scale=Scale(low=low, high=high, start=ends[0], end=ends[1]), title=title, write=write, most=4)
    drawn = frame(x, y)
    if limit:
        at = y.scale(limit.value)
        words = f"limit: at {'most' if limit.is_most else 'least'} {write(limit.value)}"
        drawn.append(element("rect", x=LEFT, y=at, width=RIGHT - LEFT, height=BOTTOM - at, class_="failing"))
        drawn += [level(at, "limit", words), label(LEFT + 5, at + 14, words, "start", "label halo")]
    for role in speeds:
        if role in qualities:
            drawn += plane_point(role, speeds[role], x.scale, y.scale(qualities[role]), write(qualities[role]))
    return canvas(drawn, "Speed and quality")


def plane_point(role: Role, speed: Interval, x: Scale, y: float, quality: str) -> list[Svg]:
    """A contender with the interval of its speed and its name."""
    across = x(speed.median)
    anchor = "start" if across < (LEFT + RIGHT) / 2 else "end"
    hover = f"{role}: {figure(speed.median)} tokens/s, quality {quality}"
    return [
        element("path", d=f"M{x(speed.low):.2f} {y:.2f}H{x(speed.high):.2f}", class_=f"spread {role}"),
        mark(role, across, y, hover),
        label(across + (7 if anchor == "start" else -7), y + 16, role, anchor, f"label halo {role}-text"),
    ]


def roofline(rates: Mapping[Role, tuple[float, float]]) -> Svg:
    """Bytes of weights read per second (first) against what the machine can read (second), in GB/s."""
    most = max(value for pair in rates.values() for value in pair)
    scale = Scale(low=0, high=1.08 * most / 1e9 or 1.0, start=LEFT, end=RIGHT)
    height = 48.0 * len(rates) + 50
    floor = height - 42
    drawn = []
    for place, text in Axis(scale=scale, title="").labels():
        drawn.append(element("line", x1=place, x2=place, y1=8, y2=floor, class_="grid"))
        drawn.append(label(place, floor + 15, text, "middle"))
    drawn.append(label((LEFT + RIGHT) / 2, floor + 34, "weights read, GB/s", "middle", "title"))
    for number, (role, (rate, limit)) in enumerate(rates.items()):
        top, end, wall = 12 + 48.0 * number, scale(rate / 1e9), scale(limit / 1e9)
        share = f" = {100 * rate / limit:.0f} % of {figure(limit / 1e9)}" if limit else ""
        hover = f"{role}: {figure(rate / 1e9)} GB/s{share}"
        told = element("title", hover)
        drawn.append(element("rect", told, x=LEFT, y=top + 16, width=end - LEFT, height=16, class_=f"bar {role}"))
        drawn.append(element("path", d=f"M{wall:.2f} {top + 11:.2f}V{top + 37:.2f}", class_="limit"))
        drawn.append(label(LEFT + 4, top + 9, hover, "start", f"label halo {role}-text"))
    return canvas([*drawn, element("path", d=f"M{LEFT} 8V{floor}H{RIGHT}", class_="axis")], "Roofline", height)


def cost_curve(
    curves: Mapping[Role, Sequence[Point]], hosted: Mapping[str, float], meetings: Mapping[str, float], currency: str
) -> Svg:
    """Cost of a million output tokens against tokens a month, both logarithmic; hosted prices are level lines.

    meetings: tokens a month at which the candidate costs what a hosted price does, by its name.
    """
    own = [point for curve in curves.values() for point in curve]
    x = Axis(scale=log_scale([at for at, _ in own], LEFT, RIGHT), title="output tokens a month", write=short)
    y = Axis(
        scale=log_scale([*(cost for _, cost in own), *hosted.values()], BOTTOM, TOP),
        title=f"{drawing.shortened(currency, 5)} per million output tokens",
    )
    drawn = frame(x, y)
    names = []
    for name, cost in hosted.items():
        words = f"{drawing.shortened(name, MOST_LETTERS)}: {figure(cost)}"
        drawn.append(level(y.scale(cost), "hosted", f"{name}: {figure(cost)} {currency}"))
        names.append((y.scale(cost), words))
    for role in sorted(curves, reverse=True):  # on one machine both lie on one line: the dashed one goes on top
        places = [(x.scale(at), y.scale(cost)) for at, cost in sorted(curves[role]) if at > 0 and cost > 0]
        if places:
            drawn.append(element("path", d=path_of(places), class_=f"line {role}"))
    for name, at in meetings.items():
        if name in hosted and x.scale.low <= at <= x.scale.high:
            hover = f"{name}: break-even at {short(at)} tokens a month"
            place = f"M{x.scale(at):.2f} {BOTTOM}V{y.scale(hosted[name]):.2f}"
            drawn.append(element("path", element("title", hover), d=place, class_="meeting"))
            drawn.append(
                element("circle", element("title", hover), cx=x.scale(at), cy=y.scale(hosted[name]), r=4, class_="ring")
            )
    # names come last: where a curve passes, their halo keeps them legible
    return canvas([*drawn, *drawing.names_above(names), legend(curves)], "Cost and use")


def bar_scale(ratios: Sequence[Interval], target: float | None) -> Scale:
    """One scale for the small bars of all ratios: wide ones are cut so that the others can be seen."""
    wanted = [1.0, *([target] if target else [])]
    low, high = min(wanted) / MOST_TIMES, max(wanted) * MOST_TIMES
    bounds = [min(max(bound, low), high) for ratio in ratios for bound in (ratio.low, ratio.high)]
    return log_scale([*wanted, *bounds], 4, BAR_WIDTH - 4)


def bar(ratio: Interval, scale: Scale, target: float | None) -> Svg:
    """A ratio's interval against 1x (a thin line) and the target (dashed)."""
    middle = BAR_HEIGHT / 2
    words = f"{times(ratio.median)}, 95 % between {times(ratio.low)} and {times(ratio.high)}"
    drawn = [element("path", d=f"M{scale(1.0):.2f} 0V{BAR_HEIGHT}", class_="even")]
    drawn += [element("path", d=f"M{scale(target):.2f} 0V{BAR_HEIGHT}", class_="limit")] if target else []
    width = max(scale(ratio.high) - scale(ratio.low), 1.0)
    told = element("title", words)
    drawn.append(element("rect", told, x=scale(ratio.low), y=middle - 4, width=width, height=8, class_="range"))
    drawn.append(
        element("rect", told, x=scale(ratio.median) - 1, y=middle - 7, width=2, height=14, class_="bar candidate")
    )
    return element(
        "svg", *drawn, viewBox=f"0 0 {BAR_WIDTH:g} {BAR_HEIGHT:g}", role="img", aria_label=words, class_="interval"
    )


def bar_axis(scale: Scale, target: float | None) -> Svg:
    """What stands above the bars: where 1x and the target are, the latter left out where they would touch."""
    drawn = [label(scale(1.0), 12, "1x", anchor_of(scale(1.0)))]
    if target and abs(scale(target) - scale(1.0)) > 18:
        drawn.append(label(scale(target), 12, f"{target:g}x", anchor_of(scale(target))))
    words = "Scale of the bars below"
    return element("svg", *drawn, viewBox=f"0 0 {BAR_WIDTH:g} 14", role="img", aria_label=words, class_="interval head")


def anchor_of(place: float) -> str:
    """So that a text at the edge of the bars stays inside."""
    return "start" if place < 12 else "end" if place > BAR_WIDTH - 12 else "middle"
