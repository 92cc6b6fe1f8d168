"""How the comparison talks to an engine: one process per measurement, a request in, one JSON line out.

A runner is any command that takes a Request as its last argument (JSON) and ends with a Report as its last line of
standard output. Runners for Python engines call `answer` with a function; this module imports nothing but the standard
library, so that they can live in an environment of their own.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

PATIENCE_S = 100.0
TIMEOUT_S = 1200
WARM_UP_TOKENS = 16
STEPS = 32
READ_BYTES = 1 << 22
"""Bytes of a file read at once: enough that calls do not count."""


class EngineFailed(Exception):
    """An engine that could not do what it was asked; the message is what the report says."""


def without_folders(reason: str) -> str:
    """A reason as it is stored: absolute paths by their last part, for a result is not about where it was made."""
    return re.sub(r"/(?:[^\s/:'\"]+/)+", "", reason)


@dataclass(frozen=True, kw_only=True, order=True)
class Task:
    """`sequences` prompts of `prompt` random tokens each are read, then `steps` tokens of each are decoded.

    is_alike: the same token everywhere, so that all of them choose the same experts; few engines are asked for that.
    """

    prompt: int
    sequences: int = 1
    is_alike: bool = False

    @property
    def name(self) -> str:
        """Key of its rates in a report."""
        return f"{self.prompt}x{self.sequences}{' alike' if self.is_alike else ''}"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a runner is asked.

    weights: file or folder. launched: time.monotonic() when the runner was started (one clock for all processes of a
    machine). options: what only this runner knows.
    """

    weights: str
    threads: int
    tasks: tuple[Task, ...]
    steps: int = STEPS
    launched: float = 0.0
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def context(self) -> int:
        """Tokens the longest sequence comes to."""
        return max(task.prompt for task in self.tasks) + self.steps + 1

    @property
    def most_sequences(self) -> int:
        """The largest batch."""
        return max(task.sequences for task in self.tasks)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Read what to_json wrote."""
        raw = json.loads(text)
        return cls(**{**raw, "tasks": tuple(Task(**task) for task in raw["tasks"])})


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a runner found.

    start_s: from the start of the process until a first prompt of 16 tokens was read. settled_s: until what the engine
    does behind its first answers was done too, None for one that does nothing there. rates: for each task by name,
    tokens per second of reading the prompts and of decoding. skipped: tasks left out, with the reason.
    """

    version: str
    start_s: float
    peak_memory_bytes: int
    rates: dict[str, tuple[float, float]]
    skipped: dict[str, str] = field(default_factory=dict)
    settled_s: float | None = None

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what to_json wrote; ValueError for anything else."""
        raw = json.loads(text)
        if not isinstance(raw, dict) or {"version", "start_s", "peak_memory_bytes", "rates"} - raw.keys():
            raise ValueError(f"not a report: {text[:200]}")
        rates = {name: (float(pair[0]), float(pair[1])) for name, pair in raw["rates"].items()}
        return cls(**{**raw, "rates": rates})


def ask(command: Sequence[str], request: Request) -> Report:
    """Start a runner and wait for its report; raises EngineFailed with what it said last."""
    read_once(Path(request.weights))
    request = replace(request, launched=time.monotonic())
    try:
        done = subprocess.run([*command, request.to_json()], capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise EngineFailed(f"no report after {TIMEOUT_S} s") from None
    except OSError as error:
        raise EngineFailed(f"{command[0]} cannot be started: {error.strerror}") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        raise EngineFailed(how_it_ended(done))
    try:
        return Report.from_json(lines[-1])
    except (ValueError, TypeError) as error:
        raise EngineFailed(f"its last line is no report: {lines[-1][:200]}") from error


def how_it_ended(done: subprocess.CompletedProcess[str]) -> str:
    """A program's exit code, or the signal that killed it, and the last thing it said."""
    said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
    code = done.returncode
    how = f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with code {code}"
    return f"{how}: {said[:300]}"


def read_once(weights: Path) -> int:
    """Bytes of a file, or of a folder, read so that they are in memory: a start then says nothing of the disk."""
    total = 0
    for path in [weights, *sorted(weights.rglob("*"))]:
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while found := file.read(READ_BYTES):
                    total += len(found)
    return total


Run = Callable[[int, int, int], tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A loaded engine, ready to be timed: run(prompt, sequences, steps) -> (prefill, decode) tokens per second.

    settle: waits for what it does behind its first answers; None where that is nothing. run_alike: run, with the same
    token everywhere; None where such tasks are left out.
    """

    version: str
    run: Run
    run_alike: Run | None = None
    settle: Callable[[], None] | None = None


def answer(load: Callable[[Request], Engine]) -> None:
    """Be a runner: load, warm up, run the tasks, print the report."""
    request = Request.from_json(sys.argv[-1])
    engine = load(request)
    engine.run(WARM_UP_TOKENS, 1, 1)
    start_s = time.monotonic() - request.launched
    settled_s = None
    if engine.settle:
        engine.settle()
        settled_s = round(time.monotonic() - request.launched, 3)
    rates, skipped = run_tasks(request.tasks, request.steps, engine.run, engine.run_alike)
    print(
        Report(
            version=engine.version,
            start_s=round(start_s, 3),
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            rates=rates,
            skipped=skipped,
            settled_s=settled_s,
        ).to_json()
    )


def run_tasks(
    tasks: Iterable[Task], steps: int, run: Run, run_alike: Run | None = None
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Rates of each task, short prompts first; one that the last rates say would outlast PATIENCE_S is skipped.

    Tasks with one token everywhere are left out without `run_alike`.
    """
    rates: dict[str, tuple[float, float]] = {}
    skipped: dict[str, str] = {}
    slowest = float("inf")
    for task in sorted(tasks):
        way = run_alike if task.is_alike else run
        if way is None:
            continue
        expected_s = task.prompt * task.sequences / slowest
        if expected_s > PATIENCE_S:
            skipped[task.name] = f"would take {expected_s:.0f} s at {slowest:.1f} tokens/s"
            continue
        rates[task.name] = way(task.prompt, task.sequences, steps)
        if task.prompt * task.sequences >= 128:  # shorter ones say little about long ones
            slowest = min(slowest, rates[task.name][0])
    return rates, skipped
