"""Launching kernels, with less to do on the host than Triton does.

Triton looks at every argument and constant anew to find what it compiled, some 40 us a launch where the rest takes 5;
a step that is not replayed as a graph launches up to thirty kernels a layer. Here a key of what compiled kernels differ
in is looked up instead. It may tell apart more than Triton does, never less (tests/backends/gpu/pretending.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

ALIGNMENT = 16
"""Bytes; pointers and integers that are multiples of it are compiled for."""
LEAST_INT32, MOST_INT32 = -(2**31), 2**31 - 1

_compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """kernel[grid](*arguments, **constants), all constants by name; the first argument is a tensor.

    In the interpreter, and on AMD, where more of a tensor counts, it is just that.
    """
    if not isinstance(kernel, JITFunction) or torch.version.hip:
        kernel[grid](*arguments, **constants)
        return
    key = key_of(kernel, arguments, constants)
    found = _compiled.get(key)
    if found is None:
        found = _compiled[key] = compiled(kernel, arguments, constants)
    runnable, values = found
    width, *rest = grid
    height, depth = (*rest, 1, 1)[:2]
    runnable[width, height, depth](*arguments, *values)


def key_of(kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> tuple[Any, ...]:
    """Different for launches of different compiled kernels. In one piece, since every launch asks for it."""
    kinds = [
        (argument.dtype, argument.data_ptr() % ALIGNMENT)
        if isinstance(argument, Tensor)
        else (argument == 1, argument % ALIGNMENT == 0, LEAST_INT32 <= argument <= MOST_INT32)
        if type(argument) is int
        else type(argument)
        for argument in arguments
    ]
    return (id(kernel), arguments[0].device, *constants.items(), *kinds)


def compiled(kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    """The kernel for such arguments, and what stands behind them when it is launched."""
    assert not any(parameter.is_constexpr for parameter in kernel.params[: len(arguments)]), "constants have names"
    known = [isinstance(argument, Tensor) or type(argument) in (int, float, bool) for argument in arguments]
    assert all(known), "keys tell tensors and Python's own numbers apart"
    values = tuple(constants[name] for name in kernel.arg_names[len(arguments) :])
    return kernel.warmup(*arguments, grid=(1,), **constants), values


def cdiv(part: int, whole: int) -> int:
    """part / whole, rounded up. (Triton's own takes 3 us.)"""
    return -(-part // whole)


def power_from(number: int) -> int:
    """The least power of two that is no less than a positive number."""
    return 1 << (number - 1).bit_length()
