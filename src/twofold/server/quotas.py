"""How much each API key may ask for in a minute."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from twofold.server.problems import Problem

MINUTE_S = 60.0
ROUNDING = 1e-6


class Allowance:
    """So many units per minute: they come back steadily, and at most a minute's worth is saved up.

    What is taken may exceed what is left; then nothing is given until the debt is paid.
    """

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self.left = float(per_minute)
        self.at_s = now_s

    def wait_s(self, least: float, now_s: float) -> float:
        """Seconds until `least` units are there."""
        self._refill(now_s)
        missing = least - self.left
        return missing * MINUTE_S / self.per_minute if missing > ROUNDING else 0.0

    def take(self, units: float, now_s: float) -> None:
        """Use units up."""
        self._refill(now_s)
        self.left -= units

    def _refill(self, now_s: float) -> None:
        grown = (now_s - self.at_s) * self.per_minute / MINUTE_S
        self.left, self.at_s = min(float(self.per_minute), self.left + grown), now_s


class Quotas:
    """The allowances of all keys; None means no limit. Used in the event loop only.

    A request counts when it comes in, its prompt when it is read, its answer token by token. A request is taken while
    at least one token is left, since nobody knows how long its answer will be.
    """

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._clock = clock
        self._allowances: dict[tuple[bytes, str], Allowance] = {}

    def admit(self, owner: bytes) -> None:
        """Count a request of this key. Raises Problem 429 that says when to come back."""
        now_s = self._clock()
        waits_s = {
            unit: self._of(owner, unit, now_s).wait_s(1.0, now_s) for unit, limit in self._limits.items() if limit
        }
        unit = max(waits_s, key=lambda name: waits_s[name], default="")
        if unit and waits_s[unit] > 0:
            back_s = math.ceil(waits_s[unit])
            raise Problem(
                429, f"this key has used its {self._limits[unit]} {unit} per minute. Try again in {back_s} s.",
                code="rate_limit_exceeded", retry_after_s=back_s,
            )  # fmt: skip
        self._take(owner, "requests", 1)

    def charge(self, owner: bytes, tokens: int) -> None:
        """Count tokens read or written for this key."""
        self._take(owner, "tokens", tokens)

    def _take(self, owner: bytes, unit: str, units: int) -> None:
        if self._limits[unit]:
            now_s = self._clock()
            self._of(owner, unit, now_s).take(units, now_s)

    def _of(self, owner: bytes, unit: str, now_s: float) -> Allowance:
        limit = self._limits[unit]
        assert limit is not None
        return self._allowances.setdefault((owner, unit), Allowance(limit, now_s))
