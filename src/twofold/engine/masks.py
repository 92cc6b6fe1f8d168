"""Which tokens may come next: masks of ids, and sequences that must not come about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def mask_of(ids: Iterable[int], vocabulary: int) -> bytes:
    """These ids as RowSampling.allowed: bit t % 8 of byte t // 8 is set for id t."""
    mask = bytearray(-(-vocabulary // 8))
    for token in ids:
        mask[token // 8] |= 1 << token % 8
    return bytes(mask)


def common(one: bytes | None, other: bytes | None) -> bytes | None:
    """Ids that both masks allow; None allows all."""
    if one is None or other is None:
        return other if one is None else one
    both = int.from_bytes(one, "little") & int.from_bytes(other, "little")
    return both.to_bytes(min(len(one), len(other)), "little")


def last_of(sequences: Iterable[Sequence[int]], said: Sequence[int]) -> set[int]:
    """Tokens that would complete one of these sequences at the end of what was said."""
    return {
        sequence[-1]
        for sequence in sequences
        if len(sequence) == 1 or list(said[-(len(sequence) - 1) :]) == list(sequence[:-1])
    }
