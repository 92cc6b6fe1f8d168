"""How long each phase of a start took."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Phases:
    """Phases that follow one another; each lasts from the end of the one before it, the first from construction.

    seconds: by name, in order; one that comes again adds up.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last_s = time.perf_counter()

    def add(self, inner: Mapping[str, float]) -> None:
        """Phases that somebody else has timed, within the one that is under way."""
        for name, seconds in inner.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            self._last_s += seconds

    def end(self, name: str) -> None:
        """The phase `name` ends now."""
        now_s = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now_s - self._last_s
        self._last_s = now_s
