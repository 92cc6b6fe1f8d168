"""How a network is shared by several ranks: what each keeps of every weight, and the network it then runs.

Attention is shared by heads, feed-forward parts by width, routed experts by width or one by one, embedding and head by
rows of the vocabulary; norms and routers are whole on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from twofold.config import ExpertSplit, Resolved
from twofold.errors import SettingsError
from twofold.models.network import Architecture
from twofold.ops.formats import Formats, format_of
from twofold.ops.layout import COLUMN_STEP, PANEL_ROWS, size_bytes
from twofold.ops.types import CacheShape, Target

if TYPE_CHECKING:
    from twofold.backends.gpu.shards import Cut


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of one rank. heads, kv_heads and head_size are the whole network's."""

    rank: int
    ranks: int
    heads: int
    kv_heads: int
    head_size: int
    expert_split: ExpertSplit

    def cut(self, target: Target) -> Cut:
        """What this rank keeps of a weight."""
        from twofold.backends.gpu.shards import Cut

        name = target.name.rsplit(".", 1)[-1]
        if target.role in ("embedding", "head"):
            return Cut(kind="gathered", rows=(self.stretch(target.shape[0], PANEL_ROWS, target),))
        if target.role == "expert" and self.expert_split == "expert":
            return Cut(kind="experts", experts=self.stretch(target.shape[0], 1, target))
        if name == "qkv":
            return Cut(kind="rows", rows=self.heads_rows())
        if name == "output":
            count = self.heads // self.ranks * self.head_size
            return Cut(kind="partial", columns=range(self.rank * count, (self.rank + 1) * count))
        if name.endswith("gate_up"):
            width = target.shape[-2] // 2
            gate = self.stretch(width, COLUMN_STEP, target)
            return Cut(kind="rows", rows=(gate, range(width + gate.start, width + gate.stop)))
        if name.endswith("down"):
            return Cut(kind="partial", columns=self.stretch(target.shape[-1], COLUMN_STEP, target))
        return Cut()

    def heads_rows(self) -> tuple[range, ...]:
        """Rows of this rank's heads in the joint projection: all q, then all k, then all v."""
        stretches, before = [], 0
        for heads in (self.heads, self.kv_heads, self.kv_heads):
            count = heads // self.ranks * self.head_size
            stretches.append(range(before + self.rank * count, before + (self.rank + 1) * count))
            before += heads * self.head_size
        return tuple(stretches)

    def stretch(self, count: int, unit: int, target: Target) -> range:
        """This rank's part of `count`; SettingsError when there is none for it."""
        from twofold.backends.gpu.shards import stretch_of

        found = stretch_of(count, unit, self.rank, self.ranks)
        if not found:
            pieces = f"in pieces of {unit}" if unit > 1 else "one by one"
            raise SettingsError(
                f"{self.ranks} ranks cannot share {target.name}: it has {count}, shared {pieces}. Use fewer --ranks."
            )
        return found

    def footprint_bytes(self, targets: tuple[Target, ...], formats: Formats) -> int:
        """Bytes of the weights this rank keeps."""
        return sum(size_bytes(format_of(formats, target), self.cut(target).shape(target.shape)) for target in targets)

    def cache_shape(self, shape: CacheShape) -> CacheShape:
        """Keys and values that this rank keeps."""
        return replace(shape, kv_heads=shape.kv_heads // self.ranks)


def share_of(architecture: Architecture, settings: Resolved, rank: int) -> Share:
    """The part of a rank. Raises SettingsError for heads that the ranks cannot share."""
    config, ranks = architecture.config, settings.ranks
    for name, count in (("query heads", config.heads), ("heads of keys and values", config.kv_heads)):
        if count % ranks:
            fitting = ", ".join(str(n) for n in range(1, count) if config.heads % n == config.kv_heads % n == 0)
            raise SettingsError(f"{ranks} ranks cannot share {count} {name} evenly. Use --ranks {fitting or 1}.")
    return Share(
        rank=rank,
        ranks=ranks,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_size=config.head_size,
        expert_split=settings.expert_split,
    )


def check_shares(architecture: Architecture, targets: tuple[Target, ...], formats: Formats, settings: Resolved) -> None:
    """Raise SettingsError for a network that these ranks cannot share, before anything is started."""
    from twofold.backends.gpu.shards import check_cut

    for rank in range(settings.ranks):
        share = share_of(architecture, settings, rank)
        for target in targets:
            check_cut(target, format_of(formats, target), share.cut(target))


def share_architecture(architecture: Architecture, share: Share) -> Architecture:
    """The network one rank runs: the same with fewer heads."""
    config = replace(architecture.config, heads=share.heads // share.ranks, kv_heads=share.kv_heads // share.ranks)
    assert isinstance(architecture.bind, partial), "a network is bound to its config"
    return replace(architecture, bind=partial(architecture.bind.func, config), config=config)
