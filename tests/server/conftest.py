"""A live server in a process of its own, with the demo model."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

COMMAND = [sys.executable, "-c", "from twofold.cli.main import main; main()", "serve", "demo", "--port", "0"]


@dataclass
class Live:
    """A running server."""

    url: str
    process: subprocess.Popen[str]
    lines: list[str]

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + "/v1", api_key=key, max_retries=0, timeout=60)

    def metric(self, name: str) -> float:
        lines = httpx.get(self.url + "/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def started(*options: str, log: Path | None = None, **environment: str) -> Iterator[Live]:
    """A server for as long as the block runs. log: where to keep what it writes after it is ready."""
    process = subprocess.Popen(
        [*COMMAND, "--threads", "1", "--dtype", "w8a8", *options],
        stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    lines: list[str] = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if line.startswith("ready: "):
            break
    else:
        raise AssertionError("".join(lines))
    with open(log or os.devnull, "w") as sink, subprocess.Popen(["cat"], stdin=process.stderr, stdout=sink) as drain:
        try:
            yield Live(lines[-1].removeprefix("ready: ").strip(), process, lines)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(30)
            drain.wait(30)
            process.stderr.close()


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    with started() as server:
        yield server


@pytest.fixture(scope="session")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with live.client() as made:
        yield made
