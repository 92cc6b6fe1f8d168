"""What the verbs that generate have in common: loading with a progress bar, showing pieces, the line of figures."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from twofold.api import LLM, Completion, Piece, SamplingParams
from twofold.ops.cost import Footprint
from twofold.placing import on_compilation

TOLD_KERNELS = 10
MEASURED_BYTES = 512 * 2**20
"""Size of the buffer that measures the memory's limit: far beyond any cache."""


def on_stderr(text: str) -> None:
    """Tell the user something that is no answer."""
    click.echo(text, err=True)


def load_with_progress(model: str, tell: Callable[[str], None] = on_stderr, **settings: Any) -> LLM:
    """Load a model, showing bytes and bytes per second on stderr; warnings, and kernels being compiled, are told."""
    with progress_bar("loading") as report:
        llm = LLM(model, progress=report, **settings)
    for warning in llm.loaded.warnings:
        tell(f"warning: {warning}")
    on_compilation(llm.loaded.settings, Compiled(tell).one_more)
    return llm


class Compiled:
    """Tells of kernels being compiled: of the first, and of every tenth."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.count = 0

    def one_more(self, _: str) -> None:
        """Another kernel was compiled."""
        self.count += 1
        if self.count == 1:
            self._tell("compiling kernels, about a second each; they are kept for the next start")
        elif self.count % TOLD_KERNELS == 0:
            self._tell(f"compiled {self.count} kernels")


@contextmanager
def progress_bar(verb: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with bytes and bytes per second on stderr, for as long as the block runs; silent without a terminal."""
    columns = (TextColumn(verb), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(verb, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def sampling_params(**options: Any) -> SamplingParams:
    """Sampling settings from command-line options, absent ones left to the model."""
    return SamplingParams(**{name: value for name, value in options.items() if value is not None})


def show(pieces: Iterator[Piece]) -> None:
    """Print pieces as they come, then end the line."""
    for piece in pieces:
        sys.stdout.write(piece.text)
        sys.stdout.flush()
    sys.stdout.write("\n")


def figures(llm: LLM, completion: Completion) -> str:
    """One line: speeds, weights read per second and their share of the machine's measured limit, peak memory."""
    chosen = llm.loaded.settings
    weights: Footprint = llm.loaded.model.footprint(chosen.dtype)
    rate = completion.decode_tokens_per_s
    read = weights.read_bytes_per_token * (completion.steps - 1) / completion.decode_s if rate else 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # before the limit is measured: that takes memory
    parts = [
        f"prefill {completion.prefill_tokens_per_s:,.0f} tokens/s",
        f"decode {rate:,.0f} tokens/s" if rate else "decode not measured (one token)",
    ]
    guessed = len(completion.tokens) - completion.steps
    if guessed:
        parts.append(f"{guessed} of {len(completion.tokens)} tokens guessed right")
    if llm.draft is not None and llm.engine.guesser is not None:
        stats = llm.engine.guesser.stats
        parts.append(
            f"draft model {stats.accepted['draft']} of {stats.proposed['draft']} guesses right in {stats.draft_s:.2f} s"
        )
    if chosen.backend == "cpu" and rate:
        parts.append(f"{read / 1e9:.1f} GB/s of weights read, {share_of_limit(read, weights.total_bytes)}")
    where = f"{chosen.backend} on {chosen.device}" if chosen.backend == "gpu" else chosen.backend
    return " · ".join(
        [
            *parts,
            f"peak memory {peak / 1e6:,.0f} MB",
            f"{chosen.dtype}, {chosen.kv_cache_dtype} cache, {where}",
        ]
    )


def share_of_limit(bytes_per_s: float, weight_bytes: int) -> str:
    """The share of this machine's memory read limit, measured now."""
    from twofold.backends.cpu.machine import measure_read

    limit = measure_read(MEASURED_BYTES)
    text = f"{bytes_per_s / limit:.0%} of this machine's {limit / 1e9:.1f} GB/s memory limit"
    return text + " (weights fit the CPU cache)" if weight_bytes < 32 * 2**20 else text
