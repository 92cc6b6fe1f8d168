"""Two small charts as SVG, coloured by the page's own style."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 420, 230, 44, 38, 14, 12


def frame(label: str, inside: Sequence[str]) -> str:
    """The picture with its axes; `label` is read to those who cannot see it."""
    axes = f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
    return "".join([head, axes, *inside, "</svg>"])


def text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "") -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{html.escape(words)}</text>'


def curves(old_s: Sequence[float], new_s: Sequence[float]) -> str:
    """Share of answers that were complete within so many seconds, both sides; the time on a logarithmic scale."""
    seconds = [value for value in (*old_s, *new_s) if value > 0]
    if not seconds:
        return ""
    low, high = math.log10(min(seconds)), math.log10(max(seconds))
    low, high = (low - 0.1, high + 0.1) if high - low > 0.2 else (low - 0.3, high + 0.3)

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = [text(LEFT - 6, y(share) + 4, f"{share * 100:.0f} %", "end") for share in (0, 0.5, 1)]
    parts += [text(x(tick), HEIGHT - BOTTOM + 16, told_s(tick)) for tick in ticks(low, high)]
    parts.append(text((LEFT + WIDTH) / 2, HEIGHT - 4, "seconds to the end of an answer"))
    for kind, values in (("old", sorted(old_s)), ("new", sorted(new_s))):
        good = [value for value in values if value > 0]
        steps = [f"H{x(value):.1f}V{y((index + 1) / len(good)):.1f}" for index, value in enumerate(good)]
        if good:
            end = WIDTH - RIGHT
            parts.append(f'<path class="curve {kind}" d="M{LEFT} {y(0):.1f}{"".join(thinned(steps))}H{end}"/>')
    parts.append(text(WIDTH - RIGHT - 4, HEIGHT - BOTTOM - 26, "old (dashed)", "end", "old"))
    parts.append(text(WIDTH - RIGHT - 4, HEIGHT - BOTTOM - 10, "new", "end", "new"))
    return frame("share of answers complete within so many seconds", parts)


def y(share: float) -> float:
    """Height of a share, 0 to 1."""
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def thinned(steps: Sequence[str], most: int = 400) -> list[str]:
    """At most so many steps, evenly chosen, the last one always."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (most - 1))] for index in range(most)]


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within 10**low and 10**high; 1, 2 and 5 where there are few powers of ten."""
    factors = (1.0,) if high - low > 2.5 else (1.0, 2.0, 5.0)
    found = [factor * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for factor in factors]
    return [tick for tick in found if low <= math.log10(tick) <= high]


def told_s(seconds: float) -> str:
    """Seconds with as many digits as they deserve."""
    return f"{seconds:.3g}"


def histogram(shares: Sequence[float]) -> str:
    """How many answers have how much in common: ten bars from 0 to 100 %."""
    if not shares:
        return ""
    counts = [0] * 10
    for share in shares:
        counts[min(int(share * 10), 9)] += 1
    width = (WIDTH - LEFT - RIGHT) / 10
    parts = [text(LEFT - 6, TOP + 4, str(max(counts)), "end"), text(LEFT - 6, HEIGHT - BOTTOM + 4, "0", "end")]
    for index, count in enumerate(counts):
        left, top = LEFT + index * width, y(count / max(counts))
        parts.append(
            f'<rect class="bar" x="{left + 2:.1f}" y="{top:.1f}" width="{width - 4:.1f}" '
            f'height="{HEIGHT - BOTTOM - top:.1f}"><title>{index * 10} to {index * 10 + 10} %: {count}</title></rect>'
        )
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        place = LEFT + share * (WIDTH - LEFT - RIGHT)
        parts.append(text(place, HEIGHT - BOTTOM + 16, f"{share * 100:.0f} %", anchor))
    parts.append(text((LEFT + WIDTH) / 2, HEIGHT - 4, "words of the two answers in common"))
    return frame("number of answers by the words they have in common", parts)
