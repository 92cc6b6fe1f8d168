"""Drawing tokens on a real device: the results of the host, and the time of a whole step's rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from twofold.backends.gpu.sampling import sample
from twofold.ops import sampling
from twofold.ops.types import Drawn, RowSampling

VOCABULARY = 202_048
ROWS = 256
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "plain": {"temperature": 0.8},
    "top_k 50": {"top_k": 50},
    "top_p 0.9": {"top_p": 0.9},
    "top_k and top_p": {"top_k": 50, "top_p": 0.9},
    "penalties": {"repetition_penalty": 1.2, "generated": tuple(range(500)), "temperature": 0.0},
    "log-probabilities": {"logprobs": 5, "temperature": 0.0},
}


def check(device: torch.device) -> list[str]:
    """Rows of every kind in one batch, against the host."""
    rows = [RowSampling(seed=seed, step=7, **settings) for seed in range(3) for settings in SETTINGS.values()]
    values = (np.random.default_rng(5).normal(size=(len(rows), VOCABULARY)) * 3).astype(np.float32)
    got = sample(torch.from_numpy(values).to(device), rows)
    failures = []
    for mine, other, row in zip(got, sampling.sample(values, rows), rows, strict=True):
        if not is_same(mine, other):
            failures.append(f"sampling with {row}: {mine}, expected {other}"[:400])
    return failures


def is_same(got: Drawn, expected: Drawn) -> bool:
    """Equal but for the rounding of log-probabilities; a plain draw may be a neighbour where running sums meet."""
    close = expected.logprob is None or abs((got.logprob or 0.0) - expected.logprob) < 1e-4
    best = [[token for token, _ in item.alternatives] for item in (got, expected)]
    return abs(got.token - expected.token) <= 1 and close and best[0] == best[1]


def measure(device: torch.device) -> Iterator[dict[str, Any]]:
    """Milliseconds from logits on the device to tokens on the host, for one row and for many."""
    zipf = -1.5 * torch.arange(1, VOCABULARY + 1, device=device).float().log()
    for count in (1, ROWS):
        logits = torch.stack([zipf[torch.randperm(VOCABULARY, device=device)] for _ in range(count)])
        yield from (timed(name, logits, settings) for name, settings in SETTINGS.items())
        flat = torch.randn(count, VOCABULARY, device=device)
        yield timed("top_p 0.9 of flat rows", flat, SETTINGS["top_p 0.9"])


def timed(name: str, logits: torch.Tensor, settings: dict[str, Any]) -> dict[str, Any]:
    """The time of a step, host and device together."""
    rows = [RowSampling(seed=seed, **settings) for seed in range(len(logits))]
    sample(logits, rows)
    repeats = 5
    start = time.perf_counter()
    for _ in range(repeats):
        sample(logits, rows)
    milliseconds = (time.perf_counter() - start) * 1e3 / repeats
    return {"kernel": f"sample, {name}", "shape": f"{len(logits)} x {VOCABULARY}", "ms": round(milliseconds, 3)}
