"""A server in a process of its own, and what it costs: seconds of work, memory, time to start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.errors import BenchError

PATIENCE_S = 900.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server. start_s: from its start until it said that it takes requests."""

    process: subprocess.Popen[bytes]
    url: str
    start_s: float

    @property
    def cpu_s(self) -> float | None:
        """Seconds of work so far, of all its threads; None where the system does not tell."""
        fields = self._read("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S if fields else None

    @property
    def peak_bytes(self) -> int | None:
        """The most memory it has held, mapped files included; None where the system does not tell."""
        lines = [line for line in self._read("status").splitlines() if line.startswith("VmHWM:")]
        return 1024 * int(lines[0].split()[1]) if lines else None

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def _read(self, name: str) -> str:
        try:
            return Path(f"/proc/{self.process.pid}/{name}").read_text()
        except OSError:
            return ""


@contextlib.contextmanager
def started(command: Sequence[str], log: Path, what: str) -> Iterator[Server]:
    """A server that answers GET /health with 200, for as long as the block runs.

    The command gets --port and a free one; what it says goes to `log`. Raises BenchError with its last words when it
    ends before that; `what` names it.
    """
    port, begun = free_port(), time.monotonic()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as sink:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=sink, stderr=sink, start_new_session=True)
    try:
        while not is_healthy(url):
            if process.poll() is not None or time.monotonic() > begun + PATIENCE_S:
                raise BenchError(f"{what} did not come up: {last_words(log)}")
            time.sleep(0.02)
        yield Server(process=process, url=url, start_s=time.monotonic() - begun)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for one that does not leave."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
    if process.poll() is None:
        process.kill()
        process.wait()


def last_words(log: Path) -> str:
    """The last lines a server wrote."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-600:] or "it said nothing"


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def is_healthy(url: str) -> bool:
    """Whether a server says that it takes requests."""
    try:
        with urllib.request.urlopen(url + "/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
