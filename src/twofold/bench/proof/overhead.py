"""What of the measured times is the client itself: the same client against a server that does nothing but write.

python -m twofold.bench.proof.overhead --port 8001    is that server
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from twofold.bench.client import Answer, Endpoint, ask_all
from twofold.bench.proof.model import Interval, Role
from twofold.bench.proof.process import started
from twofold.bench.proof.statistics import percentile

TOKENS = 32
EVERY_S = 0.02
LOUD = 0.03
"""From this share of what was measured on the client's part is told."""


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """/health with 200; anything else with a stream whose pieces tell when they were written."""
    request = await reader.readuntil(b"\r\n\r\n")
    if request.startswith(b"GET"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    else:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for number in range(TOKENS):
            if number:  # the first one at once: that is the time to the first token
                await asyncio.sleep(EVERY_S - time.perf_counter() % EVERY_S)
            event = {"choices": [{"index": 0, "text": " word"}], "at_s": time.perf_counter()}
            writer.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        writer.write(b"data: [DONE]\n\n")
    await writer.drain()
    writer.close()


async def serve(port: int) -> None:
    """Until the process is ended."""
    async with await asyncio.start_server(answer, "127.0.0.1", port) as server:
        await server.serve_forever()


def client_overhead(streams: int, logs: Path) -> dict[str, float]:
    """Milliseconds: first_token_ms, of an answer that begins at once; delay_ms and delay_p99_ms, from the writing of a
    piece to its stamp; work_per_token_ms, the client's own CPU time.
    """
    command = [sys.executable, "-m", "twofold.bench.proof.overhead"]
    with started(command, logs / "overhead.log", "the server that measures the client") as server:
        endpoint = Endpoint(server.url)
        asyncio.run(ask_all(endpoint, "completions", [{}], 1))
        begun = time.process_time()
        found = asyncio.run(ask_all(endpoint, "completions", [{}] * streams, streams))
        work_s = time.process_time() - begun
    answers = [item for item in found if isinstance(item, Answer)]
    delays = [1000 * (at_s - json.loads(data)["at_s"]) for item in answers for at_s, data in item.events]
    firsts = [1000 * item.read().first_s for item in answers]
    return {
        "streams": float(streams),
        "first_token_ms": percentile(firsts, 50),
        "delay_ms": percentile(delays, 50),
        "delay_p99_ms": percentile(delays, 99),
        "work_per_token_ms": 1000 * work_s / max(1, len(delays)),
    }


def warnings(overhead: Mapping[str, float], figures: Mapping[Role, Mapping[str, Interval]]) -> list[str]:
    """A sentence for each figure of which the client is a share worth telling; nothing is subtracted."""
    found = []
    for name, own in (("first_token_ms", "first_token_ms"), ("between_tokens_ms", "work_per_token_ms")):
        for role, measured in figures.items():
            if name in measured and overhead.get(own, 0.0) > LOUD * measured[name].median:
                found.append(
                    f"The client itself takes {overhead[own]:.2f} ms of the {role}'s {measured[name].median:.2f} ms "
                    f"({name}): the true ratio is further from 1 than the one shown."
                )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(serve(parser.parse_args().port))
