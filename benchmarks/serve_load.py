"""Many streams on one server, some of them rude: clients that hang up, that read slowly, that send nonsense.

python -m benchmarks.serve_load --streams 256 --seconds 300    starts a server with the demo model and writes a result
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.results import write_result

PROGRAM = "from twofold.cli.main import main; main()"
SYSTEM = "You answer briefly. " + " ".join(f"Rule {number} is a rule." for number in range(20))
KINDS = {"good": 0.7, "hangs up": 0.2, "reads slowly": 0.05, "sends nonsense": 0.05}


class Tally:
    """What the clients saw."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.first_s: list[float] = []
        self.between_s: list[float] = []
        self.tokens = 0


async def client(port: int, end: float, source: random.Random, tally: Tally) -> None:
    """One connection after the other until the time is over."""
    while time.monotonic() < end:
        kind = source.choices(list(KINDS), list(KINDS.values()))[0]
        try:
            tally.outcomes[f"{kind}: {await exchange(port, kind, source, tally)}"] += 1
        except (OSError, asyncio.IncompleteReadError) as error:
            tally.outcomes[f"{kind}: {type(error).__name__}"] += 1


async def exchange(port: int, kind: str, source: random.Random, tally: Tally) -> str:
    """One request; what became of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        question = f"What is {source.randrange(10**6)}?"
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        most = source.randrange(20, 120)
        body: dict[str, Any] = {
            "messages": messages,
            "stream": True,
            "max_tokens": most,
            "ignore_eos": True,
            "temperature": 0.8,
        }
        body["stream_options"] = {"include_usage": True}
        data = b'{"messages": [{"role": "king"}]}' if kind == "sends nonsense" else json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        start = last = time.perf_counter()
        status = (await reader.readline()).split()[1].decode()
        if status != "200":
            return status
        leaves_after = source.randrange(1, 30) if kind == "hangs up" else None
        count = told = 0
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                return "whole" if told == most else f"short ({told} of {most})"
            if b'"completion_tokens":' in line:
                told = json.loads(line[6:])["usage"]["completion_tokens"]
            if b'"content":' not in line or b'"role"' in line:
                continue
            now = time.perf_counter()
            if kind == "good":
                tally.tokens += 1
                (tally.between_s if count else tally.first_s).append(now - (last if count else start))
            last, count = now, count + 1
            if count == leaves_after:
                return "left"
            if kind == "reads slowly":
                await asyncio.sleep(0.2)
        return "cut"
    finally:
        writer.close()


def figures_of(port: int, process_id: int) -> dict[str, float]:
    """What must be back to the start figure afterwards."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    values = {
        line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("vllm:")
    }
    status = Path(f"/proc/{process_id}/status").read_text()
    memory = next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]
    return {
        "running": values["vllm:num_requests_running"],
        "waiting": values["vllm:num_requests_waiting"],
        "cache_used": values["vllm:kv_cache_usage_perc"],
        "memory_mib": round(int(memory) / 1024),
        "open_files": len(list(Path(f"/proc/{process_id}/fd").iterdir())),
    }


async def load(port: int, streams: int, seconds: float, seed: int) -> Tally:
    """All clients at once."""
    tally = Tally()
    end = time.monotonic() + seconds
    await asyncio.gather(*(client(port, end, random.Random(seed + number), tally) for number in range(streams)))
    return tally


def percentiles(values: list[float]) -> dict[str, float]:
    """Milliseconds."""
    cuts = statistics.quantiles(values, n=100)
    return {f"p{share}_ms": round(1000 * cuts[share - 1], 1) for share in (50, 90, 99)}


def main() -> None:
    """Start a server, load it, compare before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    command = [sys.executable, "-c", PROGRAM, "serve", "demo", "--dtype", "w8a8", "--port", "0"]
    command += ["--max-num-seqs", str(chosen.max_num_seqs), "--max-waiting", str(chosen.streams)]
    log = Path("build") / "serve_load.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as sink, subprocess.Popen(command, stderr=sink) as server:
        while "ready: " not in log.read_text():
            time.sleep(0.1)
        port = int(log.read_text().split("ready: ")[1].splitlines()[0].rsplit(":", 1)[1])
        asyncio.run(load(port, 16, 5, chosen.seed))  # what is made once is made now
        before = figures_of(port, server.pid)
        tally = asyncio.run(load(port, chosen.streams, chosen.seconds, chosen.seed))
        time.sleep(2)
        after = figures_of(port, server.pid)
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    figure: dict[str, Any] = {
        "streams": chosen.streams,
        "seconds": chosen.seconds,
        "max_num_seqs": chosen.max_num_seqs,
        "outcomes": dict(sorted(tally.outcomes.items())),
        "good_tokens_per_s": round(tally.tokens / chosen.seconds),
        "first_token": percentiles(tally.first_s),
        "between_tokens": percentiles(tally.between_s),
        "before": before,
        "after": after,
        "exit_code": code,
        "errors_in_log": log.read_text().count("ERROR"),
    }
    print(json.dumps(figure, indent=2))
    print(write_result("serve-load", "python -m benchmarks.serve_load " + " ".join(sys.argv[1:]), [figure]))


if __name__ == "__main__":
    main()
