"""The parts of a network that get bits of their own: attention, feed-forward and experts of each layer, both tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from twofold.ops.packed import Format, size_bytes
from twofold.ops.types import Role, Source, Target
from twofold.quant.units import Unit
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.load import source_bytes
from twofold.weights.stored_codes import stored_bytes

MATRIX_FORMATS: tuple[Format, ...] = ("int4", "int8", "bf16")
TABLE_FORMATS: tuple[Format, ...] = ("int4", "int8", "refined", "bf16")
"""What the embedding and the head may become."""
PARTS: Mapping[Role, str] = {
    "attention": "attention",
    "dense": "feed-forward",
    "shared": "shared expert",
    "expert": "experts",
}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Matrices of one unit that get the same bits, and the formats they may get. bf16: they stay as they are."""

    name: str
    unit: Unit
    targets: tuple[Target, ...]
    formats: tuple[Format, ...]

    @property
    def weights(self) -> int:
        """How many weights the group has."""
        return sum(prod(target.shape) for target in self.targets)

    def memory_bytes(self, form: Format) -> int:
        """Bytes in memory, scales included."""
        return sum(size_bytes(form, target.shape) for target in self.targets)

    def file_bytes(self, form: Format, store: Checkpoint, output_targets: Mapping[str, Target]) -> int:
        """Bytes of the tensors that are written; `output_targets` name the modules they are cut into."""
        if form == "bf16":
            return sum(source_bytes(store, source) for target in self.targets for source in sources(target))
        modules = [source for target in self.targets for source in sources(output_targets[target.name])]
        return sum(stored_bytes(form, source.rows, source.shape[-1]) for source in modules)


def sources(target: Target) -> list[Source]:
    """All sources of a target."""
    return [source for parts in target.sources for source in parts]


def group_units(units: Sequence[Unit]) -> list[Group]:
    """The groups of a network, in the order in which it runs them. Norms and routers belong to none."""
    found: dict[tuple[str, Role], list[Target]] = {}
    home = {unit.name: unit for unit in units}
    for unit in units:
        for target in unit.targets:
            if target.role not in ("norm", "router"):
                found.setdefault((unit.name, target.role), []).append(target)
    return [
        Group(
            name=f"{name} {PARTS[role]}" if role in PARTS else name,
            unit=home[name],
            targets=tuple(targets),
            formats=MATRIX_FORMATS if role in PARTS else TABLE_FORMATS,
        )
        for (name, role), targets in found.items()
    ]
