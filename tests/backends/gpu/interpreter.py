"""Two repairs of Triton's interpreter (seen in 3.6), for the tests only.

Bounds of loops that come from memory are arrays of one element, which NumPy from 2.4 on does not turn into an index.
And every call of a device function replaces all of triton.language anew, which takes a hundred times as long as the
arithmetic of a small tile: once per module and launch is enough.
"""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter


def repair() -> None:
    """Put both repairs in place; a second call changes nothing."""
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
