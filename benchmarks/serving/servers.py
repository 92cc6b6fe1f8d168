"""Servers in processes of their own, and what they cost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.protocol import EngineFailed
from benchmarks.peers.quiet import Clock, read_clock

PROGRAM = "from twofold.cli.main import main; main()"
PATIENCE_S = 300
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server. start_s: from its start until it answered that it was ready."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    start_s: float

    def stop(self) -> int:
        """SIGTERM, and the exit code; SIGKILL for one that does not leave within a minute."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    @property
    def cpu_s(self) -> float:
        """Seconds of work so far, of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def thread_s(self) -> dict[str, float]:
        """Seconds of work so far by thread: its number and, where it has one, its name."""
        found = {}
        for folder in Path(f"/proc/{self.process.pid}/task").iterdir():
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            fields = rest.split()
            found[f"{folder.name} {name}"] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        return found

    def status_bytes(self, name: str) -> int:
        """VmRSS (memory now) or VmHWM (the most there was)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(name + ":")).split()[1])

    def clock(self) -> Clock:
        """The machine's clock; this process and the server count as one's own work."""
        return replace(read_clock(), own_s=time.process_time() + self.cpu_s)


def twofold_command(model: str, *options: str) -> list[str]:
    """twofold serve, from this environment."""
    return [sys.executable, "-c", PROGRAM, "serve", model, *options]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[Server]:
    """A server whose /health answers 200. Raises EngineFailed with its last words when it ends before that.

    The command gets --port and a free one; everything it says goes to `log`.
    """
    port = free_port()
    begun = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=sink, stderr=sink)
    try:
        while not is_healthy(port):
            if process.poll() is not None or time.monotonic() > begun + PATIENCE_S:
                last = (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
                raise EngineFailed(f"{' '.join(command[:4])} ... did not come up: {last[:300]}")
            time.sleep(0.05)
        yield Server(process=process, port=port, log=log, start_s=time.monotonic() - begun)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def is_healthy(port: int) -> bool:
    """Whether a server says that it takes requests."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
