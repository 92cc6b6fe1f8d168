"""What command lines of benchmarks share. It imports nothing, so that none of them needs what another one does."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} was given; a whole number of at least 1 was expected")
    return int(text)
