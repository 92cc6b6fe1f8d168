"""How much of what the client sees is the client itself: a server that writes stamped tokens in a fixed rhythm.

python -m benchmarks.serving.pace --port 8001    is that server
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from benchmarks.serving.client import ask_all
from benchmarks.serving.figures import milliseconds
from benchmarks.serving.servers import started

TOKENS = 64
EVERY_S = 0.1
"""A step of a server with many streams; all streams get their token at once, as from a batch."""


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """/health with 200; anything else with a stream whose tokens tell when they were written."""
    request = await reader.readuntil(b"\r\n\r\n")
    if request.startswith(b"GET"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    else:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for _ in range(TOKENS):
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


def client_overhead(streams: int, folder: Path) -> dict[str, float]:
    """Delay between the writing of a token and its stamp by the client, and the client's work per token."""
    command = [sys.executable, "-m", "benchmarks.serving.pace"]
    with started(command, folder / "pace.log") as server:
        asyncio.run(ask_all(server.port, [{}], 1))
        begun = time.process_time()
        answers = asyncio.run(ask_all(server.port, [{}] * streams, streams))
        work_s = time.process_time() - begun
        server.stop()
    delays = [at_s - json.loads(data)["at_s"] for answer in answers for at_s, data in answer.events]
    return {
        "streams": streams,
        **milliseconds(delays, "delay"),
        "work_per_token_ms": round(1000 * work_s / len(delays), 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(serve(parser.parse_args().port))
