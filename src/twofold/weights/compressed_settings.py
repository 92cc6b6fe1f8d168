"""What a compressed-tensors quantization_config says about the weights; activations are not looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twofold.errors import CheckpointError, UnsupportedModel

METHOD = "compressed-tensors"
FORMATS = (
    *("int-quantized", "float-quantized", "naive-quantized", "pack-quantized", "nvfp4-pack-quantized"),
    *("mxfp4-pack-quantized", "mixed-precision", "dense"),
)
KNOWN: dict[tuple[Any, Any], str] = {
    ("float", 8): "fp8",
    ("int", 8): "w8a8",
    ("int", 4): "w4a16",
}
FOUR_BIT_FLOATS = {16: "nvfp4", 32: "mxfp4"}
"""By their group size."""


@dataclass(frozen=True, kw_only=True)
class CompressedSettings:
    """`name` is what users call the scheme; `groups` and `blocks` are the sizes that a scale of a weight may cover."""

    name: str
    groups: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...]


def read_settings(found: Mapping[str, Any]) -> CompressedSettings:
    """The settings of a quantization_config.

    Raises UnsupportedModel for what cannot be read, CheckpointError for what makes no sense.
    """
    form = found.get("format")
    if form not in FORMATS:
        raise UnsupportedModel(f"config.json: compressed-tensors format is {form!r}; {', '.join(FORMATS)} can be read")
    refuse_extras(found)
    weights = [mapping(group, "a config group").get("weights") for group in groups_of(found)]
    schemes = [mapping(args, "weights of a config group") for args in weights if args is not None]
    names = {name_of(args) for args in schemes}
    sizes = [args.get("group_size") for args in schemes]
    return CompressedSettings(
        name=names.pop() if len(names) == 1 else METHOD,
        groups=tuple(whole(size, "group_size") for size in sizes if size not in (None, -1)),
        blocks=tuple(block(args["block_structure"]) for args in schemes if args.get("block_structure") is not None),
    )


def refuse_extras(found: Mapping[str, Any]) -> None:
    """UnsupportedModel where reading the weights alone would give another network than the one that was saved."""
    sparsity = mapping(found.get("sparsity_config") or {}, "sparsity_config").get("format", "dense")
    if sparsity != "dense":
        raise UnsupportedModel(f"config.json: compressed-tensors with sparsity format {sparsity!r}; dense can be read")
    transforms = mapping(found.get("transform_config") or {}, "transform_config").get("config_groups")
    if transforms:
        raise UnsupportedModel(
            "config.json: compressed-tensors with a transform_config, whose rotations at run time are not applied; "
            "use a checkpoint without"
        )


def groups_of(found: Mapping[str, Any]) -> list[Any]:
    """The config groups; none where the config names none."""
    return list(mapping(found.get("config_groups") or {}, "config_groups").values())


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """A JSON object, or CheckpointError."""
    if not isinstance(value, Mapping):
        raise CheckpointError(f"config.json: {where} of quantization_config is {value!r}; an object was expected")
    return value


def name_of(args: Mapping[str, Any]) -> str:
    """What users call weights of this kind."""
    kind, bits, size = args.get("type"), args.get("num_bits"), args.get("group_size")
    if kind == "float" and bits == 4:
        return FOUR_BIT_FLOATS.get(size, METHOD) if type(size) is int else METHOD
    return KNOWN.get((kind, bits), METHOD) if isinstance(kind, str) and type(bits) is int else METHOD


def whole(value: Any, where: str) -> int:
    """A whole number from 1 on, or CheckpointError."""
    if type(value) is not int or value < 1:
        raise CheckpointError(f"config.json: {where} is {value!r}; a whole number from 1 on was expected")
    return value


def block(value: Any) -> tuple[int, int]:
    """[rows, columns], or "ROWSxCOLUMNS" as old writers have it."""
    sizes = value.split("x") if isinstance(value, str) else value
    if isinstance(value, str) and all(size.isascii() and size.isdigit() and len(size) < 10 for size in sizes):
        sizes = [int(size) for size in sizes]
    if not isinstance(sizes, list) or len(sizes) != 2:
        raise CheckpointError(f"config.json: block_structure is {value!r}; [rows, columns] was expected")
    return whole(sizes[0], "block_structure"), whole(sizes[1], "block_structure")
