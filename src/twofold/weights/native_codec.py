"""Reads what `twofold quantize` writes in its own format; see stored_codes."""

from __future__ import annotations

from collections.abc import Collection

from twofold.ops.codes import Codes
from twofold.ops.packed import Format
from twofold.weights import stored_codes
from twofold.weights.checkpoint import Checkpoint


class NativeCodec:
    """Codec of quant_method "twofold"."""

    def __init__(self, name: str) -> None:
        self.name = name

    def modules(self, checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
        """Every module with codes, checked."""
        names = checkpoint.names
        found = [name.removesuffix(".weight_scale") for name in names if name.endswith(".weight_scale")]
        for module in found:
            stored_codes.check_module(checkpoint, module)
        return {
            f"{module}.weight": tuple(stored_codes.expected(checkpoint, module)) + shape_of(module, names)
            for module in found
        }

    def shape(self, checkpoint: Checkpoint, name: str) -> tuple[int, ...]:
        """See Codec."""
        return stored_codes.module_shape(checkpoint, name.removesuffix(".weight"))

    def format(self, checkpoint: Checkpoint, name: str) -> Format:
        """See Codec."""
        module = name.removesuffix(".weight")
        if f"{module}.weight_packed" not in checkpoint.names:
            return "int8"
        return "refined" if f"{module}.residual_packed" in checkpoint.names else "int4"

    def rows(self, checkpoint: Checkpoint, name: str, start: int, stop: int, expert: int | None = None) -> Codes:
        """See Codec."""
        assert expert is None, "experts are modules of their own in this format"
        return stored_codes.read_codes(checkpoint, name.removesuffix(".weight"), start, stop)


def shape_of(module: str, names: Collection[str]) -> tuple[str, ...]:
    """The tensor that tells a packed module's shape, where there is one."""
    name = f"{module}.weight_shape"
    return (name,) if name in names else ()
