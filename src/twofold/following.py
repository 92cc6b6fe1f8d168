"""A rank that follows another: it loads its share of a model and runs every batch the first rank tells it of.

It talks over its standard input and output, and ends when the first rank says so or is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from twofold.config import Resolved
from twofold.errors import TwofoldError
from twofold.loading import open_model
from twofold.networks import Network, load_network
from twofold.ops.types import LayerCache
from twofold.rank_frames import decode_batch, read_frame, write_frame

WATCH_S = 1.0


def main() -> None:
    """Load, meet the others, follow."""
    commands, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # both reach all processes of a terminal or a service: the first decides
    threading.Thread(target=leave_with, args=(os.getppid(),), daemon=True).start()
    first = read_frame(commands)
    if first is None:
        return
    given = json.loads(first[1])
    try:
        network = load_network(open_model(given["model"]), Resolved(**given["settings"]), given["rank"])
    except TwofoldError as error:
        write_frame(answers, "failed", str(error).encode())
        sys.exit(1)
    write_frame(answers, "ready")
    follow(network, Path(given["meeting"]), commands, answers)


def leave_with(parent: int) -> None:
    """End this process once its parent is gone, also while it waits for other ranks."""
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)


def follow(network: Network, meeting: Path, commands: IO[bytes], answers: IO[bytes]) -> None:
    """Do what the frames say until the end of them."""
    assert network.group is not None, "who follows is one of several"
    cache: list[LayerCache] = []
    while (frame := read_frame(commands)) is not None:
        kind, content = frame
        if kind == "step":
            network.forward(network.ops, network.ops.upload(decode_batch(content)), cache)
        elif kind == "join":
            network.group.join(meeting)
        elif kind == "cache":
            cache = new_cache(network, json.loads(content))
        elif kind == "read":
            chosen, block = json.loads(content)
            write_frame(answers, "block", network.ops.read_block([cache[layer] for layer in chosen], block))
        elif kind == "write":
            head, data = content.split(b"\n", 1)
            chosen, block = json.loads(head)
            network.ops.write_block([cache[layer] for layer in chosen], block, data)
        else:
            assert kind == "end", kind
            network.group.leave()
            return


def new_cache(network: Network, sizes: dict[str, Any]) -> list[LayerCache]:
    """A cache as large as the first rank's."""
    global_blocks, local_blocks = sizes["blocks"]
    return network.ops.new_cache(network.cache_shape, (global_blocks, local_blocks), sizes["block_size"])


if __name__ == "__main__":
    main()
