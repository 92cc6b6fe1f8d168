"""A device that lags: what it is asked for is done when somebody waits for it, in the order it was asked for.

Whoever reads a result too early finds nothing, and whoever overwrites what a step still needs finds it out: batches
are copied when they are uploaded, everything else is looked at when its turn comes. `source` decides how far behind
the device is, and now and then has it draw a token that it takes back later.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from twofold.errors import TwofoldError
from twofold.ops.types import Batch, Drawn, RowSampling


@dataclass
class Later:
    """Something that is not there yet."""

    value: Any = None


@dataclass
class LateDraws:
    """Drawn tokens that are not there yet; what a step behind them gets may be wrong, and is told afterwards."""

    device: Lagging
    found: list[Drawn | TwofoldError] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    is_done: bool = False
    is_final: bool = True

    def result(self) -> list[Drawn]:
        self.device.run(lambda: self.is_done)
        for one in self.found:
            if isinstance(one, TwofoldError):
                raise one
        return [one for one in self.found if isinstance(one, Drawn)]


class Lagging:
    """`ops` on such a device. flights: steps launched behind others."""

    runs_ahead = True

    def __init__(self, ops: Any, source: random.Random) -> None:
        self.ops = ops
        self.source = source
        self.asked: deque[Callable[[], None]] = deque()
        self.flights = self.taken_back = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ops, name)

    def run(self, is_enough: Callable[[], bool]) -> None:
        while self.asked and not is_enough():
            self.asked.popleft()()

    def ask(self, work: Callable[[], None]) -> None:
        self.asked.append(work)
        behind = self.source.choice([0, 1, 3, 9])
        self.run(lambda: len(self.asked) <= behind)

    def lag(self, forward: Callable[..., Any]) -> Callable[..., Later]:
        """A network on it."""

        def run(_: Any, batch: Later, cache: Any) -> Later:
            logits = Later()
            self.ask(lambda: setattr(logits, "value", forward(self.ops, batch.value, cache)))
            return logits

        return run

    def upload(self, batch: Batch) -> Later:
        return Later(self.ops.upload(deepcopy(batch)))

    def upload_after(self, batch: Batch, before: LateDraws, rows: Sequence[int]) -> Later:
        self.flights += 1
        own, uploaded = deepcopy(batch), Later()

        def fill() -> None:
            tokens_T = np.array([before.tokens[row] for row in rows], np.int32)
            uploaded.value = self.ops.upload(replace(own, tokens_T=tokens_T))

        assert len(rows) == len(batch.tokens_T)
        self.ask(fill)
        return uploaded

    def begin_sample(self, logits: Later, rows: Sequence[RowSampling]) -> LateDraws:
        draws = LateDraws(self)

        def draw() -> None:
            for logits_V, row in zip(logits.value, rows, strict=True):
                try:
                    draws.found += self.ops.sample(logits_V[None], [row])
                except TwofoldError as error:
                    draws.found.append(error)
            draws.tokens = [one.token if isinstance(one, Drawn) else 1 for one in draws.found]
            if self.source.random() < 0.03:
                draws.is_final = False
                draws.tokens[0] = (draws.tokens[0] + 1) % logits.value.shape[1]
                self.taken_back += 1
            logits.value = np.full_like(logits.value, np.nan)  # another step may use the memory
            draws.is_done = True

        self.ask(draw)
        return draws

    def sample(self, logits: Later, rows: Sequence[RowSampling]) -> list[Drawn]:
        self.run(lambda: False)
        drawn: list[Drawn] = self.ops.sample(logits.value, rows)
        return drawn
