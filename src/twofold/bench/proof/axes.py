"""Scales of plots: where a figure lies on paper, which round figures to label, and how figures are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MOST_DECADES = 6
"""A logarithmic axis that had to hold a zero begins this many powers of ten below its end."""
SHORT = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Figures from low to high, drawn from start to end (pixels); what lies outside is drawn at the edge."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Where a figure lies."""
        inside = min(max(value, self.low), self.high)
        if self.is_log:
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            share = (inside - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round figures within the scale, at most `most` or one more."""
        return log_ticks(self.low, self.high, most) if self.is_log else even_ticks(self.low, self.high, most)


def even_scale(values: Iterable[float], start: float, end: float, room: float = 0.06) -> Scale:
    """A scale that holds all values with some room beside them; a zero among them stays at the edge."""
    found = finite(values) or [0.0]
    low, high = min(found), max(found)
    spread = (high - low) or abs(high) or 1.0
    return Scale(
        low=0.0 if low == 0 else low - room * spread,
        high=0.0 if high == 0 and low < 0 else high + room * spread,
        start=start,
        end=end,
    )


def log_scale(values: Iterable[float], start: float, end: float) -> Scale:
    """A logarithmic scale for the values above zero; those that are not are drawn at its lower edge."""
    found = [value for value in finite(values) if value > 0] or [1.0]
    low, high = max(min(found), max(found) / 10**MOST_DECADES), max(found)
    factor = max((high / low) ** 0.04, 1.02) if high / low > 1.02 else 1.5
    return Scale(low=low / factor, high=high * factor, start=start, end=end, is_log=True)


def finite(values: Iterable[float]) -> list[float]:
    """Without what is no number."""
    return [value for value in values if math.isfinite(value)]


def even_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    step = next(step for step in steps_from((high - low) / max(most, 1)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{count * step:.12g}") for count in range(first, last + 1)]


def steps_from(least: float) -> Iterable[float]:
    """Round steps of at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    yield from (power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """1, 2 and 5 times powers of ten where there is room, else powers of ten, else every so many of them.

    Within less than a factor of 2.5 even steps are as good.
    """
    if high / low < 2.5:
        return even_ticks(low, high, most)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [
            float(f"{factor}e{power}")
            for power in range(first, last + 1)
            for factor in factors
            if low * (1 - 1e-9) <= factor * 10.0**power <= high * (1 + 1e-9)
        ]
        if 2 <= len(found) <= most + 1:
            return found
    if len(found) < 2:
        return even_ticks(low, high, most)
    return found[:: math.ceil(len(found) / most)]


def thinned(values: Sequence[float], most: int) -> list[tuple[float, float]]:
    """The empirical distribution: values in order, each with the share of all that do not exceed it.

    At most `most` of them, the least and the greatest always among them.
    """
    ordered, count = sorted(values), len(values)
    picks = range(count) if count <= most else sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
    return [(ordered[pick], (pick + 1) / count) for pick in picks]


def figure(value: float) -> str:
    """Three significant digits, whole numbers in full, thousands apart: 0.00213, 1.25, 12,345."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.2g}"
    return f"{value:,.{2 - math.floor(math.log10(abs(value)))}f}"


def plain(value: float) -> str:
    """A round figure of an axis, without needless zeros: 0.5, 20, 1,000."""
    return f"{value:,.10f}".rstrip("0").rstrip(".") if abs(value) >= 1e-6 or value == 0 else f"{value:.0e}"


def short(value: float) -> str:
    """A large round figure in few letters: 10M is ten million, 2B two thousand million."""
    for size, letter in SHORT:
        if abs(value) >= size * (1 - 1e-9):
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share as a percentage; only the whole is written 100 %, and only nothing 0 %."""
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if 99.95 <= value < 100 or 0 < value < 0.05:
        return "over 99.9 %" if value > 50 else "under 0.1 %"
    return f"{value:.1f} %"


def times(ratio: float) -> str:
    """A ratio: 2.41x, 13.2x, 140x."""
    return f"{ratio:.2f}x" if abs(ratio) < 10 else f"{figure(ratio)}x"
