"""How fast this machine reads memory, measured behind a server's back: its start does not wait for it."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from twofold.errors import OutOfMemory

if TYPE_CHECKING:
    from twofold.api import LLM

log = logging.getLogger("twofold.server")
LEAST_BYTES, MOST_BYTES = 16 * 2**20, 512 * 2**20
"""Sizes of the buffer: the weights' own, so that what fits a cache is compared with that cache, between these."""
TRIES = 100
PAUSE_S = 0.5
"""From one try to the next. A server without a quiet moment in so many has no figure."""


class ReadLimit:
    """Measured once, by a thread of its own: when the weights lie where they stay and no request came meanwhile.

    The buffer (512 MiB take a second or two on a busy machine) lives for the measurement only; where memory is short
    none is made. What cannot be measured stays unknown; weights that cannot be copied are told of in the log.
    """

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._bytes_per_s: float | None = None
        self._thread = threading.Thread(target=self._measure, name="twofold-read-limit", daemon=True)
        self._thread.start()

    def value(self) -> float | None:
        """Bytes per second; None as long as it is not known."""
        return self._bytes_per_s

    def wait(self, timeout_s: float) -> float | None:
        """The value, once the thread has ended."""
        self._thread.join(timeout_s)
        return self._bytes_per_s

    def _measure(self) -> None:
        from twofold.backends.cpu.machine import measure_read
        from twofold.weights.memory import available_memory

        try:
            self._llm.settle()
        except OutOfMemory as error:
            log.warning("%s", error)
        counted = self._llm.loaded.model.footprint(self._llm.loaded.settings.dtype)
        size = min(MOST_BYTES, max(LEAST_BYTES, counted.total_bytes))
        for _ in range(TRIES):
            before = self._asked()
            if before is not None and available_memory() >= 2 * size:
                found = measure_read(size)
                if self._asked() == before:
                    self._bytes_per_s = found
                    return
            time.sleep(PAUSE_S)

    def _asked(self) -> int | None:
        """Prompt tokens the engine has been asked for so far; None while it is at work."""
        return self._llm.engine.blocks.asked_tokens if self._llm.engine.is_idle else None
