"""A short name for a model's weights that changes when they do, without reading all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SAMPLES, SAMPLE_BYTES = 64, 4096
"""How many places of all weight files together are looked at, at least one in each, and how much there."""


def fingerprint(config: dict[str, Any], files: Sequence[Path], with_times: bool = False) -> str:
    """SHA-256 over a config, and over names, sizes and samples of the weight files.

    with_times: over the times they were last changed too. Samples can miss a change of a few layers, times cannot; but
    a copy of the files then counts as another model.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    each = max(1, SAMPLES // max(1, len(files)))
    for path in files:
        facts = path.stat()
        digest.update(f"{path.name} {facts.st_size}".encode())
        if with_times:
            digest.update(str(facts.st_mtime_ns).encode())
        with path.open("rb") as file:
            for index in range(each):
                file.seek(facts.st_size * (2 * index + 1) // (2 * each))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
