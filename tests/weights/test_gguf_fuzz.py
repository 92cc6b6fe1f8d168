"""Mutated GGUF files: whatever is wrong with one, an error of ours says so, in bounded memory."""

from __future__ import annotations

import random
import re
import resource
from pathlib import Path

import pytest

from tests.fuzz.gguf_files import mutate, small_files
from tests.weights.make_gguf import read_everything
from twofold.errors import TwofoldError

SEED, COUNT = 11, 500
"""Another seed and a larger count are what a longer run would change: 24,000 files were tried when this was written."""
GROWTH_BYTES = 100 * 2**20
"""Files are below 250 kB; what all of them together may add to the peak memory of the process."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return small_files(tmp_path_factory.mktemp("gguf"))


def test_mutated_files_are_refused_or_read(originals: list[bytes], tmp_path: Path) -> None:
    rng = random.Random(SEED)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: dict[str, int] = {}
    for index in range(COUNT):
        path = tmp_path / "m.gguf"
        path.write_bytes(mutate(rng.choice(originals), rng))
        try:
            read_everything(path)
            outcome = "read"
        except TwofoldError as error:
            outcome = type(error).__name__
        except Exception as error:
            raise AssertionError(f"seed {SEED}, file {index}: {error!r} came out") from error
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        re.purge()  # Python keeps the last 512 patterns, and every other vocabulary is a pattern of thousands of words
    assert outcomes["read"] > COUNT // 50
    assert outcomes["CheckpointError"] > COUNT // 2
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GROWTH_BYTES
