"""The schemes of --dtype: a format for every role a weight can have.

Router and norms stay float32: they are small and steer everything else. In w4a8 the head and the embedding hold
eight bits: the head's errors go straight into the sampled distribution, and only one row of the embedding is read.
The head's are two times four, so that only the likely tokens cost eight to read (ops.packed, Refined).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from twofold.errors import SettingsError
from twofold.ops.formats import Formats
from twofold.ops.packed import Format
from twofold.ops.types import Role
from twofold.quant.quantise import Kind

MATRICES: Mapping[str, Format] = {"f32": "f32", "bf16": "bf16", "w8a8": "int8", "w4a8": "int4"}
"""Format of the matrices of each scheme."""


def scheme(name: str) -> Formats:
    """Format of each role; raises SettingsError for an unknown scheme."""
    if name not in MATRICES:
        raise SettingsError(f"dtype is {name!r}; it must be one of {', '.join(MATRICES)}")
    matrices = MATRICES[name]
    formats: dict[str, Format] = dict.fromkeys(get_args(Role), matrices)
    formats |= {"norm": "f32", "router": "f32"}
    if name == "w4a8":
        formats |= {"head": "refined", "embedding": "refined"}
    return formats


MIXED = "mixed"
QUANTISED = ("w4a8", "w8a8", "fp8", "w4a16", MIXED)
"""Schemes `twofold quantize` writes."""


def quantised_formats(name: str, has_head: bool) -> Mapping[str, Kind]:
    """What each role becomes in a folder written as this scheme; SettingsError for an unknown one.

    As in `scheme`, but the embedding of w8a8 stays as it is where it is not the head too: only one row of it is read
    per token, and rounding it cost a tenth of the scheme's whole KL divergence on the demo model. fp8 and w4a16 are
    compressed-tensors' own, which leave embedding and head alone. mixed begins as w4a8 and gets a format for every
    target by name (twofold.choosing).
    """
    if name not in QUANTISED:
        raise SettingsError(f"scheme is {name!r}; it must be one of {', '.join(QUANTISED)}")
    if name in ("fp8", "w4a16"):
        kind: Kind = "fp8" if name == "fp8" else "group4"
        return dict.fromkeys(get_args(Role), kind) | dict.fromkeys(("norm", "router", "embedding", "head"), "bf16")
    formats: dict[str, Kind] = dict(scheme("w4a8" if name == MIXED else name))
    if name == "w8a8" and has_head:
        formats["embedding"] = "bf16"
    return formats
