"""A quantised checkpoint, seen as if every module still had its MODULE.weight."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Protocol, TypeAlias

from twofold.ops.codes import Coded
from twofold.ops.formats import Formats
from twofold.ops.packed import AnyArray, Floats, Format
from twofold.ops.types import Target
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.gguf_checkpoint import GgufCheckpoint
from twofold.weights.safetensors import SafetensorsFile


class Codec(Protocol):
    """How one format keeps each weight (a matrix [N, D], or a stack of experts) in several tensors.

    A weight goes by the name it has in a plain checkpoint: MODULE.weight, or that of a stack of experts.
    """

    @property
    def name(self) -> str:
        """What users call the format."""
        ...

    def modules(self, checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
        """Quantised weights and the tensors each consists of, checked; raises CheckpointError."""
        ...

    def shape(self, checkpoint: Checkpoint, name: str) -> tuple[int, ...]:
        """Logical shape of a weight: as a plain checkpoint keeps it."""
        ...

    def format(self, checkpoint: Checkpoint, name: str) -> Format:
        """The packed format that holds the weight without another rounding, or bf16 when none does."""
        ...

    def rows(
        self, checkpoint: Checkpoint, name: str, start: int, stop: int, expert: int | None = None
    ) -> Coded | Floats:
        """Rows start..stop of a weight [N, D], or of one expert's matrix as [out, in], whichever way it is stored.

        Codes where a packed format holds them, else values.
        """
        ...


class QuantisedCheckpoint:
    """A checkpoint whose quantised weights are read through a codec; everything else is as in Checkpoint."""

    def __init__(self, checkpoint: Checkpoint, codec: Codec) -> None:
        self.checkpoint = checkpoint
        self.codec = codec
        self.parts = codec.modules(checkpoint)

    @cached_property
    def names(self) -> Collection[str]:
        """Names of all tensors, those of a quantised weight replaced by its own."""
        hidden = {name for parts in self.parts.values() for name in parts}
        return {**dict.fromkeys(name for name in self.checkpoint.names if name not in hidden), **self.parts}.keys()

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors as they lie in the files."""
        return self.checkpoint.size_bytes

    def is_quantised(self, name: str) -> bool:
        """Whether this weight is read through the codec."""
        return name in self.parts

    def shape(self, name: str) -> tuple[int, ...]:
        """Logical shape of a weight."""
        return self.codec.shape(self.checkpoint, name) if name in self.parts else self.checkpoint.shape(name)

    def dtype(self, name: str) -> str:
        """Dtype of a tensor; float32 for quantised weights, which decode to it."""
        return "F32" if name in self.parts else self.checkpoint.dtype(name)

    def tensor(self, name: str) -> AnyArray:
        """A tensor that is not quantised."""
        assert name not in self.parts, f"{name} is quantised; ask for rows"
        return self.checkpoint.tensor(name)

    def file(self, name: str) -> SafetensorsFile:
        """The file of a tensor that is not quantised."""
        return self.checkpoint.file(name)

    def rows(self, name: str, start: int, stop: int, expert: int | None = None) -> Coded | Floats:
        """Rows of a quantised weight, see Codec."""
        return self.codec.rows(self.checkpoint, name, start, stop, expert)

    def release(self, name: str) -> None:
        """Give back the pages of a quantised weight."""
        for part in self.parts[name]:
            file = self.checkpoint.file(part)
            entry = file.entries[part]
            file.release(part, 0, entry.end - entry.begin)

    def formats(self, targets: Sequence[Target]) -> Formats:
        """The packed format of every target: as stored where all its parts are stored alike.

        Four-bit parts beside eight-bit ones become eight-bit codes, which hold both; anything else beside quantised
        parts becomes bfloat16. Norms and routers are float32.
        """
        return {target.name: self.target_format(target) for target in targets}

    def target_format(self, target: Target) -> Format:
        """See formats."""
        if target.role in ("norm", "router"):
            return "f32"
        found = {self.source_format(source.name) for parts in target.sources for source in parts}
        if len(found) == 1:
            return found.pop()
        return "int8" if found <= {"int4", "int8"} else "bf16"

    def source_format(self, name: str) -> Format:
        """Format of one weight."""
        return self.codec.format(self.checkpoint, name) if name in self.parts else "bf16"


Store: TypeAlias = Checkpoint | QuantisedCheckpoint | GgufCheckpoint
