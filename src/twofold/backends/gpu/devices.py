"""The devices torch sees, and what they hold."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from twofold.errors import SettingsError

WITHOUT_INDEX = ("cpu", "mps")


def first_device() -> str | None:
    """The first accelerator torch sees, as "cuda", "xpu", "mps" ...; None without one."""
    if not torch.accelerator.is_available():
        return None
    found = torch.accelerator.current_accelerator()
    return None if found is None else found.type


def check_device(name: str) -> str:
    """The device's name; raises SettingsError for one that torch does not know or see."""
    there = seen()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"device is {name!r}, which torch does not know; there are {', '.join(there)}") from error
    full = name if device.index is not None or device.type in WITHOUT_INDEX else f"{device.type}:0"
    if full not in there:
        raise SettingsError(
            f"device is {name!r}, which is not there; torch sees {', '.join(there)}. Leave it out for the CPU."
        )
    return name


def device_of(name: str, rank: int) -> str:
    """The device of a rank: the one named and those after it, by number. CPUs are shared."""
    device = torch.device(name)
    if rank == 0 or device.type in WITHOUT_INDEX:
        return name
    return f"{device.type}:{(device.index or 0) + rank}"


def use(device: torch.device) -> None:
    """Have this thread launch kernels on the device: every thread begins with the first one."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def send(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """An array on the device, without waiting for what the device still has to do."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Fetched:
    """A tensor on its way to the host."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: Any = None
        self._tensor = tensor.to("cpu", non_blocking=tensor.is_cuda)
        if tensor.is_cuda:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def numpy(self) -> npt.NDArray[Any]:
        """The array, once it is there."""
        if self._event:
            self._event.synchronize()
        array: npt.NDArray[Any] = self._tensor.numpy()
        return array


def share_cores(ranks: int) -> None:
    """Have this process use its part of the machine's cores."""
    torch.set_num_threads(max(1, torch.get_num_threads() // ranks))


def seen() -> list[str]:
    """All devices: "cpu" and the accelerators, by number."""
    kind = first_device()
    if kind is None:
        return ["cpu"]
    if kind in WITHOUT_INDEX:
        return ["cpu", kind]
    return ["cpu", *(f"{kind}:{index}" for index in range(torch.accelerator.device_count()))]


def free_memory(name: str) -> int | None:
    """Bytes that are free on a device; None where it does not tell."""
    device = torch.device(name)
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)


def describe(name: str) -> str:
    """What the device calls itself."""
    device = torch.device(name)
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else name
