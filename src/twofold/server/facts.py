"""What whoever starts a server tells it of the model and the machine; the server shows it and reckons with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from twofold.server.cost import Price


def reads_nothing(rows: int) -> float:
    """For a model whose reading is not known."""
    return 0.0


def unknown() -> None:
    """For a limit that nobody measures."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """build: labels of twofold:build_info. phases: seconds of each phase of the start, in order.

    price: None shows no cost. read_bytes(rows): bytes of weights a step of so many rows is expected to read.
    read_limit: bytes per second this machine reads at most, None while or where it is not measured. expert_counts: for
    each layer with routed experts the tokens each expert has got, None for a network without. expert_uses: experts that
    were on the device when needed, those that were not, and bytes copied for them; None where all are there.
    """

    build: Mapping[str, str] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    price: Price | None = None
    read_bytes: Callable[[int], float] = reads_nothing
    read_limit: Callable[[], float | None] = unknown
    expert_counts: Callable[[], Sequence[Sequence[int]]] | None = None
    expert_uses: Callable[[], tuple[int, int, int]] | None = None
