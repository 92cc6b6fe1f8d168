"""What the engine has done since the server began, added up step by step.

The engine's thread adds steps, the event loop adds prompts, and metrics are read in between.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from twofold.engine.runner import StepReport

PHASES = ("input", "output")
LATELY_S = 10.0
"""How far back "lately" goes for tokens per second."""
SHARE_STEPS = 64
"""Steps that the share of the memory limit is taken over."""


class Work:
    """Seconds and tokens of each phase.

    A step's seconds are split evenly over its rows: rows of prompts are "input", rows of answers (guessed ones too)
    are "output". read_bytes(rows): bytes of weights that a step of so many rows reads.
    """

    def __init__(self, read_bytes: Callable[[int], float], began_s: float | None = None) -> None:
        self.began_s = time.perf_counter() if began_s is None else began_s
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.tokens = dict.fromkeys(PHASES, 0)
        self.decode_read_bytes = 0.0
        self.decode_seconds = 0.0
        self._read_bytes = read_bytes
        self._lock = threading.Lock()
        self._decoded: deque[tuple[float, float]] = deque(maxlen=SHARE_STEPS)
        self._recent: deque[tuple[float, int, int]] = deque()

    def add_step(self, report: StepReport, now_s: float) -> None:
        """Add a step that ended now."""
        if not report.rows:
            return
        with self._lock:
            self._add(report, now_s)

    def _add(self, report: StepReport, now_s: float) -> None:
        prompt_s = report.seconds * report.prompt_rows / report.rows
        self.seconds["input"] += prompt_s
        self.seconds["output"] += report.seconds - prompt_s
        self.tokens["output"] += report.drawn
        self._recent.append((now_s, report.prompt_rows, report.drawn))
        while self._recent[0][0] < now_s - LATELY_S:
            self._recent.popleft()
        if not report.prompt_rows:
            read = self._read_bytes(report.rows)
            self.decode_read_bytes += read
            self.decode_seconds += report.seconds
            self._decoded.append((read, report.seconds))

    def add_prompt(self, tokens: int) -> None:
        """Add a prompt that has been read, its cached tokens included."""
        self.tokens["input"] += tokens

    def elapsed_s(self, now_s: float) -> float:
        """Seconds since the start."""
        return now_s - self.began_s

    def phase_seconds(self, now_s: float) -> dict[str, float]:
        """Seconds of input, output and "idle"; they sum to the time that has passed."""
        with self._lock:
            seconds = dict(self.seconds)
        return {**seconds, "idle": max(0.0, self.elapsed_s(now_s) - sum(seconds.values()))}

    def lately(self, now_s: float) -> dict[str, float]:
        """Prompt tokens run and answer tokens drawn per second, over the last LATELY_S seconds."""
        with self._lock:
            recent = [item for item in self._recent if item[0] >= now_s - LATELY_S]
        span = max(1.0, min(LATELY_S, self.elapsed_s(now_s)))
        return {
            "input": sum(item[1] for item in recent) / span,
            "output": sum(item[2] for item in recent) / span,
        }

    @property
    def decode_bytes_per_s(self) -> float | None:
        """Weights read per second in the last steps that only decoded; None before the first."""
        with self._lock:
            decoded = tuple(self._decoded)
        seconds = sum(item[1] for item in decoded)
        return sum(item[0] for item in decoded) / seconds if seconds else None
