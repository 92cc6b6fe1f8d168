"""python -m tests.fuzz.api: requests by the ten thousand against a live server, made from its own description.

Each is sent by schemathesis, half of them as described and half not: no answer may be a 5xx, and each must have a
status, a content type, headers and a body that the description tells of; what it does not allow must be refused.

python -m tests.fuzz.api --count 20000 --seed 7 --workers 2     the seed is printed, and chosen when not given
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

import httpx

from tests.server.conftest import Live, started

KEY = "key-of-the-fuzzer"
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance",
    "ignored_auth",
)  # fmt: skip
PER_ROUTE = 100
"""Most cases of one route and kind in one round of the fuzzer."""


@dataclass(frozen=True)
class Round:
    """What one run of schemathesis came to."""

    cases: int
    passed: bool
    text: str


def server_options(folder: Path) -> list[str]:
    """A server with everything turned on, and a context so small that every answer is short."""
    return [
        *("--context", "128", "--api-key", KEY, "--trust-request-chat-template"),
        *("--session-dir", str(folder), "--session-space", "64MiB"),
    ]


def run_round(live: Live, seed: int, per_route: int, phases: Sequence[str], workers: int) -> Round:
    """Run schemathesis once."""
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", live.url + "/openapi.json"),
        *("--checks", ",".join(CHECKS), "--phases", ",".join(phases), "--max-examples", str(per_route)),
        *("--seed", str(seed), "--workers", str(workers), "--header", f"Authorization: Bearer {KEY}"),
        *("--continue-on-failure", "--no-color", "--request-timeout", "60", "--warnings", "off"),
        *("--suppress-health-check", "all", "--generation-database", "none"),
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz.api_hooks"}
    with tempfile.TemporaryDirectory() as folder:
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    counted = re.search(r"Test cases:\s+([\d,]+) generated", found.stdout)
    cases = int(counted[1].replace(",", "")) if counted else 0
    return Round(cases, found.returncode == 0 and cases > 0, found.stdout + found.stderr)


def statuses(live: Live) -> Counter[str]:
    """How many answers the server gave, by status."""
    found: Counter[str] = Counter()
    text = httpx.get(live.url + "/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    for status, count in re.findall(r'^http_requests_total\{.*status="(\d+)"\} (\S+)$', text, re.MULTILINE):
        found[status] += int(float(count))
    return found


def told(counts: Counter[str]) -> str:
    """The counts in a line."""
    return ", ".join(f"{count} x {status}" for status, count in sorted(counts.items()))


def main() -> int:
    """Run rounds until there were enough cases; 1 when one found something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="cases in all")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    seed = SystemRandom().randrange(2**31) if chosen.seed is None else chosen.seed
    print(f"seed {seed}", flush=True)
    begin, cases, phases = time.monotonic(), 0, ("examples", "coverage", "fuzzing")
    with tempfile.TemporaryDirectory() as folder, started(*server_options(Path(folder))) as live:
        while cases < chosen.count:
            found = run_round(live, seed, PER_ROUTE, phases, chosen.workers)
            cases += found.cases
            print(f"{cases} cases in {time.monotonic() - begin:.0f} s", flush=True)
            if not found.passed or live.process.poll() is not None:
                print(found.text)
                return 1
            seed, phases = seed + 1, ("fuzzing",)
        print("nothing found; answers by status: " + told(statuses(live)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
