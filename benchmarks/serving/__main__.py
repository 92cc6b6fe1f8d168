"""The small client against a server that is running: python -m benchmarks.serving --port 8000 --vocabulary 3000.

With --serve MODEL it starts twofold serve itself and tells what the server's threads and the client cost too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.serving.loads import Load, run_level
from benchmarks.serving.servers import started, twofold_command

SEEDS_APART = 10_000


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The command line; what it does not know is for twofold serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--port", type=int, help="of a server on this machine")
    which.add_argument("--serve", metavar="MODEL", help="start twofold serve MODEL; further options are passed on")
    parser.add_argument("--vocabulary", type=int, default=3000, help="ids below this are drawn (default: 3000, demo)")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--requests", type=int, default=10, help="of each stream, one after the other")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of every prompt")
    parser.add_argument("--answer", type=int, default=128, help="tokens of every answer")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_known_args()


def measure(port: int, load: Load, seed: int) -> dict[str, float]:
    """One level, after a short one that warms up."""
    asyncio.run(run_level(port, load, 1, seed + SEEDS_APART))
    begun = time.process_time()
    figures = asyncio.run(run_level(port, load, load.streams[0], seed))
    tokens = load.streams[0] * load.requests * load.answer_tokens
    return {**figures, "client_work_per_token_ms": round(1000 * (time.process_time() - begun) / tokens, 4)}


def measure_started(model: str, options: list[str], load: Load, seed: int) -> dict[str, Any]:
    """The same with a server of one's own: its work by thread as well."""
    with tempfile.TemporaryDirectory() as folder:
        command = twofold_command(model, *options)
        with started(command, Path(folder) / "log") as server:
            before = server.thread_s()
            figures = measure(server.port, load, seed)
            after = server.thread_s()
            server.stop()
    work = {name: round(seconds - before.get(name, 0.0), 2) for name, seconds in after.items()}
    return {**figures, "work_s": {name: seconds for name, seconds in work.items() if seconds}}


def main() -> None:
    """Measure and print."""
    chosen, options = parse()
    load = Load(
        streams=(chosen.streams,),
        prompt_tokens=chosen.prompt,
        answer_tokens=chosen.answer,
        requests=chosen.requests,
        probes=0,
        vocabulary=chosen.vocabulary,
    )
    if chosen.serve:
        print(json.dumps(measure_started(chosen.serve, options, load, chosen.seed), indent=2))
    else:
        print(json.dumps(measure(chosen.port, load, chosen.seed), indent=2))


if __name__ == "__main__":
    main()
