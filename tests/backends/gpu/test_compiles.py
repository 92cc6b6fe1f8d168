"""Every kernel compiles for NVIDIA and AMD, and needs no more than it did (resources.json)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.gpu.compiling import RATCHET, TARGETS, Resources, signatures

ROOT = Path(__file__).parents[3]
KEPT: dict[str, dict[str, Resources]] = json.loads(RATCHET.read_text())
QUICK = ("order: ", "integer_few: one token")


def compiled(*prefixes: str) -> dict[str, dict[str, Resources]]:
    """In a process of its own, because the tests' own Triton only interprets."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", "tests.backends.gpu.compiling", *prefixes]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, Resources]] = json.loads(done.stdout)
    return found


def worse(found: dict[str, dict[str, Resources]]) -> list[str]:
    """What needs more than it did. Where it is wanted: python -m tests.backends.gpu.compiling --write NAME."""
    return [
        f"{name} for {target}: {count} {what}, before {KEPT[name][target][what]}"
        for name, targets in found.items()
        for target, resources in targets.items()
        for what, count in resources.items()
        if count > KEPT[name][target][what]
    ]


def test_the_ratchet_knows_every_signature_and_every_target() -> None:
    assert {name: tuple(targets) for name, targets in KEPT.items()} == {
        name: signature.targets for name, signature in sorted(signatures().items())
    }
    assert {target for targets in KEPT.values() for target in targets} == TARGETS.keys()


def test_nothing_that_decodes_spills() -> None:
    kinds = ("quantize", "refine: refine", "norm", "route")
    decoding = {name: targets for name, targets in KEPT.items() if "_few" in name or name.startswith(kinds)}
    assert [n for n, targets in decoding.items() if any(targets[t]["spills"] for t in ("sm_80", "sm_90"))] == []


def test_some_kernels_need_no_more_than_before() -> None:
    assert worse(compiled(*QUICK)) == []


@pytest.mark.slow
def test_all_kernels_need_no_more_than_before() -> None:
    assert worse(compiled()) == []
