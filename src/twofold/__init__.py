"""twofold: fast, honest inference for Llama 4 and the Llama 2/3 systems people migrate from.

    from twofold import LLM, SamplingParams

Names are imported when they are first used, so that `import twofold` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twofold.api import LLM, Completion, Piece, SamplingParams, Settings
    from twofold.errors import TwofoldError

__all__ = ["LLM", "Completion", "Piece", "SamplingParams", "Settings", "TwofoldError"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'twofold' has no attribute {name!r}")
    return getattr(import_module("twofold.errors" if name == "TwofoldError" else "twofold.api"), name)
