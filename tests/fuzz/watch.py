"""Runs damaged inputs in processes of their own and watches them: errors, crashes, hangs, and memory.

Input number i of a target is made from f"{seed}/{target}/{i}" alone, so any of them can be made again.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import resource
import shutil
import signal
import tempfile
import time
import traceback
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.seeds import Files
from tests.fuzz.targets import Target
from twofold.errors import TwofoldError

HANG_S = 20
"""An input that takes longer hangs: sound ones take milliseconds."""
STUCK_S = 120
"""A worker that does not even notice that is ended."""
ROOM_BYTES = 128 * 2**20
"""Address space a worker may add to what it has at its start: an allocation beyond all reason fails at once."""
MEASURED_EVERY = 5
"""Every so many inputs allocations are counted too; that takes three to eight times as long."""
BASE_BYTES = 2 * 2**20
FACTOR = 64
"""Python and NumPy may allocate so much, and so many times the size of the input's files: four-bit codes take 8 bytes
per byte as float32, with indices and products beside them; small JSON becomes objects of 50 bytes and more."""
CHUNK = 2500


class Hang(BaseException):
    """Raised by the alarm clock, through any except that expects errors."""


@dataclass(frozen=True)
class Finding:
    """One input that misbehaved."""

    target: str
    index: int
    what: str


@dataclass
class Result:
    """Outcomes of a run: inputs that could be read and that were refused, by target, and findings."""

    read: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    widest: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """Inputs in all."""
        return self.read.total() + self.refused.total() + len(self.findings)


@dataclass(frozen=True)
class Job:
    """Inputs start..stop of a target; `hang_s` is what each may take."""

    seed: int
    target: Target
    start: int
    stop: int
    hang_s: float = HANG_S


def make_input(target: Target, folders: Sequence[Files], seed: int, index: int) -> tuple[int, Files]:
    """Which folder is damaged, and its files that change."""
    random = Random(f"{seed}/{target.name}/{index}")
    chosen = random.randrange(len(folders))
    return chosen, target.mutate(folders[chosen], random)


def work(job: Job, current: Synchronized[int], report: Connection) -> None:
    """One worker's life: a job from its beginning to its end, reported once."""
    warnings.simplefilter("error")  # a warning is an answer nobody planned
    target = job.target
    folders = target.folders()
    signal.signal(signal.SIGALRM, on_alarm)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_address_space()
    result = Result()
    with tempfile.TemporaryDirectory() as name:
        places = [place(Path(name) / str(index), files) for index, files in enumerate(folders)]
        for index in range(job.start, job.stop):
            current.value = index
            chosen, changed = make_input(target, folders, job.seed, index)
            replace(places[chosen], changed)
            observe(job, index, places[chosen], result)
            replace(places[chosen], {file: folders[chosen][file] for file in changed})
    report.send(result)


def limit_address_space() -> None:
    """Take no more than ROOM_BYTES on top of what is mapped now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def on_alarm(number: int, frame: Any) -> None:
    """See Hang."""
    raise Hang


def place(folder: Path, files: Files) -> Path:
    """Write a folder."""
    folder.mkdir()
    replace(folder, files)
    return folder


def replace(folder: Path, files: Files) -> None:
    """New files in the place of others: one that is still mapped somewhere keeps its bytes."""
    for name, data in files.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(data)


def observe(job: Job, index: int, folder: Path, result: Result) -> None:
    """Read one input and count what came of it."""
    name = job.target.name
    is_measured = index % MEASURED_EVERY == 0
    if is_measured:
        tracemalloc.start()
    what, outcome = read_watched(job, folder, result)
    if is_measured:
        size = sum(path.stat().st_size for path in folder.iterdir())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        result.widest[name] = max(result.widest[name], peak)
        if what is None and peak > BASE_BYTES + FACTOR * size:
            what = f"allocates {peak} bytes for files of {size}"
    if what is None:
        outcome[name] += 1
    else:
        result.findings.append(Finding(name, index, what))


def read_watched(job: Job, folder: Path, result: Result) -> tuple[str | None, Counter[str]]:
    """What went wrong, if anything did, else the counter of the outcome."""
    signal.setitimer(signal.ITIMER_REAL, job.hang_s)
    try:
        job.target.read(folder)
    except TwofoldError:
        return None, result.refused
    except Hang:
        return f"hangs: more than {job.hang_s} s", result.refused
    except BaseException:  # whatever it is, it is a finding
        return traceback.format_exc(limit=-4), result.refused
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None, result.read


def jobs(seed: int, count: int, targets: Sequence[Target]) -> Iterator[Job]:
    """At least `count` inputs in pieces, shared out among the targets."""
    whole = sum(target.share for target in targets)
    for target in targets:
        mine = -(-count * target.share // whole)
        for start in range(0, mine, CHUNK):
            yield Job(seed, target, start, min(start + CHUNK, mine))


def run(todo: Iterable[Job], workers: int) -> Result:
    """All jobs, `workers` processes at a time."""
    result = Result()
    waiting = list(todo)
    running: list[Worker] = []
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(Worker(waiting.pop(0)))
        wait([item.report for item in running], timeout=1)  # a process that dies closes its end
        for item in list(running):
            rest = item.collect(result)
            if rest is not None:
                running.remove(item)
                waiting[:0] = rest
    return result


class Worker:
    """A process at work on a job."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.job = job
        self.current: Synchronized[int] = context.Value("q", -1)
        self.report, theirs = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(target=work, args=(job, self.current, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.seen, self.since = -1, time.monotonic()

    def collect(self, result: Result) -> list[Job] | None:
        """None while at work; else jobs that are left to do, and what was found is in the result."""
        is_alive = self.process.is_alive()  # asked before the pipe: what a dead process has sent is there by now
        if self.report.poll():
            try:
                add(result, self.report.recv())
            except EOFError:
                is_alive = False
            else:
                self.process.join()
                return []
        if self.current.value != self.seen:
            self.seen, self.since = self.current.value, time.monotonic()
        is_stuck = time.monotonic() - self.since > STUCK_S
        if is_alive and not is_stuck:
            return None
        if is_stuck:
            self.process.kill()
        self.process.join()
        what = "hangs where no alarm reaches it" if is_stuck else f"ends its process with {self.process.exitcode}"
        result.findings.append(Finding(self.job.target.name, self.seen, what))
        return self.rest()

    def rest(self) -> list[Job]:
        """The job without the input that ended it; nothing of a job that never began."""
        if self.seen < 0:
            return []
        ends = ((self.job.start, self.seen), (self.seen + 1, self.job.stop))
        return [dataclasses.replace(self.job, start=start, stop=stop) for start, stop in ends if start < stop]


def add(result: Result, found: Result) -> None:
    """Put the outcomes of one job to those of the others."""
    result.read.update(found.read)
    result.refused.update(found.refused)
    result.findings += found.findings
    for name, peak in found.widest.items():
        result.widest[name] = max(result.widest[name], peak)


def keep(folder: Path, target: Target, index: int, seed: int) -> Path:
    """Write the folder of an input for a closer look."""
    folders = target.folders()
    chosen, changed = make_input(target, folders, seed, index)
    path = folder / f"{target.name}-{index}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    replace(path, {**folders[chosen], **changed})
    return path
