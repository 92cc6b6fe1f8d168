"""Which packed format each weight gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from twofold.ops.packed import Format
from twofold.ops.types import Target

Formats: TypeAlias = Mapping[str, Format]
"""Format by role; a target's own name, where it is listed, goes before its role."""


def format_of(formats: Formats, target: Target) -> Format:
    """The format of one weight."""
    return formats[target.name] if target.name in formats else formats[target.role]
