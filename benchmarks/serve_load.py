"""Many streams on one server, some of them rude: clients that hang up, that read slowly, that send nonsense.

python -m benchmarks.serve_load --streams 256 --seconds 300     the demo model on a server of its own
python -m benchmarks.serve_load --streams 64 --seconds 30 --no-result

Ends with 1, and says what is wrong, when a good stream was lost, an answer differs from the one the same request gets
when it is alone, nonsense was not refused, something was not given back, or the log complains.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.results import write_result
from benchmarks.serving.figures import percentile
from benchmarks.serving.guests import Guestbook, ask_again, describe, load
from benchmarks.serving.servers import Server, started, twofold_command
from benchmarks.serving.traces import complaints, differences, growth, traces, watch

CALM_S = 3
WARM_UP_S = 30
LONGEST_WAIT_S = 90
"""A reader who does not read is cut after 75 s at the latest."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=256, help="clients at once (default: 256)")
    parser.add_argument("--seconds", type=float, default=300, help="how long they come (default: 300)")
    parser.add_argument("--max-num-seqs", type=int, default=64, help="of the server (default: 64)")
    parser.add_argument("--again", type=int, default=60, help="answers that are asked for again alone (default: 60)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-result", action="store_true", help="keep no file in benchmarks/results")
    return parser.parse_args()


async def watched_load(server: Server, streams: int, seconds: float, seed: int) -> tuple[Guestbook, dict[str, Any]]:
    """The load, and what was seen of the server meanwhile."""
    memory_mib: list[float] = []
    unread: list[int] = []
    watching = asyncio.create_task(watch(server, seconds / 20, memory_mib, unread))
    begun = time.process_time()
    try:
        book = await load(server.port, streams, seconds, seed)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    most_unread = max(unread, default=0)
    work = round(time.process_time() - begun, 1)
    return book, {"memory_mib": memory_mib, "most_unread_bytes": most_unread, "client_work_s": work}


def calm(server: Server, before: dict[str, float]) -> dict[str, float]:
    """Traces once everything is back, or after the longest wait as they are then."""
    end = time.monotonic() + LONGEST_WAIT_S
    time.sleep(CALM_S)
    while differences(before, after := traces(server)) and time.monotonic() < end:
        time.sleep(1)
    return after


def run(server: Server, chosen: argparse.Namespace) -> dict[str, Any]:
    """The whole test on a running server."""
    warm_s = min(WARM_UP_S, chosen.seconds)  # what is made once is made now, and the heap takes its size
    warm = asyncio.run(load(server.port, chosen.streams, warm_s, chosen.seed + 1))
    before = calm(server, traces(server))
    book, seen = asyncio.run(watched_load(server, chosen.streams, chosen.seconds, chosen.seed))
    after = calm(server, before)
    truths = random.Random(chosen.seed).sample(book.truths, min(chosen.again, len(book.truths)))
    faults = [*warm.faults, *book.faults, *differences(before, after), *asyncio.run(ask_again(server.port, truths))]
    code = server.stop()
    faults += growth(seen["memory_mib"])
    faults += complaints(server.log.read_text(errors="replace"))
    faults += [f"the server's exit code is {code}"] if code else []
    return {
        "streams": chosen.streams,
        "seconds": chosen.seconds,
        "max_num_seqs": chosen.max_num_seqs,
        "outcomes": dict(sorted(book.outcomes.items())),
        "good_tokens_per_s": round(book.tokens / chosen.seconds),
        "first_token": percentiles(book.first_s),
        "between_tokens": percentiles(book.gaps_s),
        "asked_again": len(truths),
        **seen,
        "before": before,
        "after": after,
        "faults": describe(faults),
    }


def percentiles(values: list[float]) -> dict[str, float]:
    """Milliseconds; none without values."""
    return {f"p{share}_ms": round(1000 * percentile(values, share), 1) for share in (50, 90, 99) if values}


def main() -> None:
    """Start a server, load it, compare before and after, alone and among others."""
    chosen = parse()
    options = ("--dtype", "w8a8", "--max-num-seqs", str(chosen.max_num_seqs), "--max-waiting", str(chosen.streams))
    with started(twofold_command("demo", *options), Path("build") / "serve_load.log") as server:
        figure = run(server, chosen)
    print(json.dumps(figure, indent=2))
    if not chosen.no_result:
        print(write_result("serve-load", "python -m benchmarks.serve_load " + " ".join(sys.argv[1:]), [figure]))
    sys.exit(1 if figure["faults"] else 0)


if __name__ == "__main__":
    main()
