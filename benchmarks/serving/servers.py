"""Servers in processes of their own, and what they cost."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.protocol import EngineFailed
from twofold.bench.proof import process
from twofold.bench.proof.process import TICKS_PER_S
from twofold.bench.quiet import Clock, read_clock
from twofold.errors import BenchError

PROGRAM = "from twofold.cli.main import main; main()"


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
        return process.Server(process=self.process, url="", start_s=self.start_s).cpu_s or 0.0

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


@contextlib.contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[Server]:
    """A server whose /health answers 200. Raises EngineFailed with its last words when it ends before that.

    The command gets --port and a free one; everything it says goes to `log`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with process.started(command, log, f"{' '.join(command[:4])} ...") as server:
            port = int(server.url.rpartition(":")[2])
            yield Server(process=server.process, port=port, log=log, start_s=server.start_s)
    except BenchError as error:
        raise EngineFailed(str(error)) from error
