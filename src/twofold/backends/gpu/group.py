"""What the ranks of a network say to each other, over torch.distributed: NCCL between GPUs, gloo between CPUs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as distributed
from torch import Tensor

from twofold.errors import SettingsError

BACKENDS = {"cpu": "gloo", "cuda": "nccl", "xpu": "xccl"}
SILENCE = timedelta(minutes=10)
"""How long a rank may be late: the first step compiles kernels. Ranks that end are noticed at once, not by this."""


def check_free() -> None:
    """Raise SettingsError when this process is in a group already."""
    if distributed.is_initialized():
        raise SettingsError(
            "one process has one model on several ranks, and this one is in a torch.distributed group already; "
            "close the other model first, or use a process for each"
        )


@dataclass
class Group:
    """One rank of several, each on a device of its own. It speaks after `join`."""

    rank: int
    ranks: int
    device: torch.device

    def join(self, meeting: Path) -> None:
        """Meet the others over a file that all can open; returns when all are there.

        A file in a folder of our own is a meeting that nobody else can take part in, unlike a port.
        Raises SettingsError when this process is in a group already.
        """
        check_free()
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if sys.platform == "linux" else ():
            os.environ.setdefault(name, "lo")  # all ranks are on one machine, so nothing listens to the network
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        distributed.init_process_group(
            BACKENDS[self.device.type],
            init_method=meeting.resolve().as_uri(),
            rank=self.rank,
            world_size=self.ranks,
            timeout=SILENCE,
        )

    def leave(self) -> None:
        """End it, on this rank."""
        with contextlib.suppress(RuntimeError):  # others may be gone already
            if distributed.is_initialized():
                distributed.destroy_process_group()

    def abort(self) -> None:
        """Have what waits for other ranks fail, from any thread: one of them is gone."""
        with contextlib.suppress(Exception):  # gloo does so by itself, and the group may be half gone
            distributed.distributed_c10d._abort_process_group()

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        distributed.all_reduce(x)
        return x

    def largest(self, x: Tensor) -> Tensor:
        """The largest of all ranks, element by element, in place."""
        distributed.all_reduce(x, op=distributed.ReduceOp.MAX)
        return x

    def side_by_side(self, x_RN: Tensor, counts: Sequence[int]) -> Tensor:
        """The columns of all ranks, of which rank i has counts[i]: [R, sum]."""
        widest = max(counts)
        mine_RN = torch.nn.functional.pad(x_RN, (0, widest - x_RN.shape[1])).contiguous()
        parts = [torch.empty_like(mine_RN) for _ in counts]
        distributed.all_gather(parts, mine_RN)
        return torch.cat([part[:, :count] for part, count in zip(parts, counts, strict=True)], dim=1)
