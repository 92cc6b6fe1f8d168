"""Repairs of Triton's interpreter (seen in 3.6), for the tests only.

Bounds of loops that come from memory are arrays of one element, which NumPy from 2.4 on does not turn into an index.

The others are about time, of which the arithmetic of a small tile takes a hundredth. Every call of a device function
replaces all of triton.language anew: once per module and launch is enough. Sums and products of integers are repeated
with 64 bits, but that none overflowed is only looked at while debugging. And what a tensor's shape and a type are in
NumPy is worked out anew for every value.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from triton.language import core
from triton.runtime import interpreter


@functools.cache
def shape_of(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Number of elements and shape as a tensor carries them."""
    return core.constexpr(math.prod(shape)), core.tuple([core.constexpr(size) for size in shape])


def begin_tensor(tensor: Any, handle: Any, type: Any) -> None:
    """What Triton's own __init__ does."""
    tensor.handle, tensor.type, tensor.dtype = handle, type, type.scalar
    tensor.numel, tensor.shape = shape_of(type.shape if type.is_block() else ())


def repair() -> None:
    """Put all repairs in place; a second call changes nothing."""
    if hasattr(interpreter, "patched_modules"):
        return
    patched: set[str] = set()
    interpreter.patched_modules = patched
    patch_tensor, patch_language, launch = (
        interpreter._patch_lang_tensor,
        interpreter._patch_lang,
        interpreter.GridExecutor.__call__,
    )

    def index(tensor: Any) -> int:
        return int(tensor.handle.data.reshape(()))

    def patch_tensor_too(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", index)

    def patch_once(function: Any) -> Any:
        if function.__module__ in patched:
            return None
        patched.add(function.__module__)
        return patch_language(function)

    def launch_afresh(self: Any, *args: Any, **kwargs: Any) -> Any:
        patched.clear()
        return launch(self, *args, **kwargs)

    interpreter._patch_lang_tensor = patch_tensor_too
    interpreter._patch_lang = patch_once
    interpreter.GridExecutor.__call__ = launch_afresh
    scalar_dtype = functools.cache(interpreter._get_np_dtype)

    def numpy_dtype(dtype: Any) -> Any:
        element = dtype.element_ty if isinstance(dtype, core.block_type) else dtype
        return np.dtype(np.uint64) if isinstance(element, core.pointer_type) else scalar_dtype(element)

    interpreter._get_np_dtype = numpy_dtype
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
    core.tensor.__init__ = begin_tensor
