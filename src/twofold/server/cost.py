"""What the machine costs, and whom each second of it is charged to. Without a price there is no cost."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from twofold.errors import SettingsError
from twofold.server.work import PHASES, Work


@dataclass(frozen=True, kw_only=True)
class Price:
    """What an hour of the machine costs. name: what the price is of, for the log. Raises SettingsError."""

    per_hour: float
    currency: str = "USD"
    name: str = "as given"

    def __post_init__(self) -> None:
        if not math.isfinite(self.per_hour) or self.per_hour <= 0:
            raise SettingsError(f"the price per hour is {self.per_hour!r}; a number above 0 was expected")
        if not re.fullmatch(r"[A-Z]{3}", self.currency):
            raise SettingsError(f"the currency is {self.currency!r}; three capital letters were expected, like USD")

    def of(self, seconds: float) -> float:
        """What so many seconds cost."""
        return self.per_hour * seconds / 3600


@dataclass(frozen=True, kw_only=True)
class UnitCost:
    """Cost of a million tokens of one phase; utilisation: "full" as if the engine never waited, "measured" with idle
    time charged to the tokens there were.
    """

    phase: str
    utilisation: str
    per_million: float


def phase_costs(work: Work, price: Price, now_s: float) -> dict[str, float]:
    """Cost since the start, by phase and "idle"; they sum to the price of all the time that has passed."""
    return {phase: price.of(seconds) for phase, seconds in work.phase_seconds(now_s).items()}


def unit_costs(work: Work, price: Price, now_s: float) -> Iterator[UnitCost]:
    """Cost per million tokens of input, output and both ("total"); a phase without tokens yet has none.

    Idle seconds are charged in proportion to busy ones. Input counts cached tokens too: they cost the engine nothing,
    which is what makes the others' price fall.
    """
    passed = work.phase_seconds(now_s)
    seconds = {phase: passed[phase] for phase in PHASES}
    tokens = dict(work.tokens)
    seconds["total"], tokens["total"] = sum(seconds.values()), sum(tokens.values())
    busy = seconds["total"]
    factors = {"full": 1.0, "measured": max(1.0, work.elapsed_s(now_s) / busy) if busy else 1.0}
    for phase, count in tokens.items():
        for utilisation, factor in factors.items():
            if count and busy:
                cost = price.of(seconds[phase] * factor) / count * 1e6
                yield UnitCost(phase=phase, utilisation=utilisation, per_million=cost)
