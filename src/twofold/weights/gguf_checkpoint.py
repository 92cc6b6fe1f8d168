"""A GGUF model seen as a Hugging Face checkpoint: the same names, the same order of rows, values decoded by rows.

llama.cpp's converter changes three things, which are undone here: names; the rows of queries and keys of `llama`,
where element i and i + K/2 of a head, which turn together, come to lie side by side (`llama4` turns neighbours
anyway and is left as it is); and fused experts, which become three stacks [expert, out, in].
Source: llama.cpp, conversion/llama.py.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from twofold.errors import CheckpointError, UnsupportedModel
from twofold.ops.codes import GroupCodes
from twofold.ops.formats import Formats
from twofold.ops.packed import AnyArray, Floats, Format
from twofold.ops.types import Target
from twofold.weights.gguf import PLAIN, GgufFile
from twofold.weights.gguf_blocks import Grouped, decode, unpack
from twofold.weights.gguf_parts import GgufParts
from twofold.weights.group_codes import LARGEST_HALF

WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
}
FEED_FORWARD = {"ffn_gate": "gate_proj", "ffn_up": "up_proj", "ffn_down": "down_proj"}
ROUTED = {
    "ffn_gate_inp": "router",
    "ffn_gate_shexp": "shared_expert.gate_proj",
    "ffn_up_shexp": "shared_expert.up_proj",
    "ffn_down_shexp": "shared_expert.down_proj",
}
STACKS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
FOUR_BITS = ("Q4_0", "Q4_1", "Q4_K")
ROPE_FACTORS = "rope_freqs.weight"
NEEDLESS = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd\.weight")
"""Not weights: what rotary frequencies are divided by (the config holds it), and frequencies of old files."""
LAYER_NAME = re.compile(r"blk\.(0|[1-9]\d{0,5})\.(\w+)\.weight", re.ASCII)


@dataclass(frozen=True)
class Matrix:
    """Where a weight lies: `shape` of it alone, and its first row among those of its tensor.

    heads: rows of so many heads are side by side, 0 where they are in the usual order.
    """

    tensor: str
    shape: tuple[int, ...]
    first_row: int = 0
    heads: int = 0


class GgufCheckpoint:
    """The weights of a GGUF model under the names of a Hugging Face checkpoint.

    family: "llama" or "llama4". heads, kv_heads: heads of queries and of keys. Raises UnsupportedModel for a tensor
    that neither network has, CheckpointError for stacks and heads that do not divide.
    """

    def __init__(self, parts: GgufParts, family: str, heads: int, kv_heads: int) -> None:
        self.parts = parts
        self.family = family
        self.turned = {"attn_q": heads, "attn_k": kv_heads} if family == "llama" else {}
        self.matrices = {name: matrix for tensor in parts.homes for name, matrix in self.matrices_of(tensor)}

    @property
    def names(self) -> Collection[str]:
        """Names of all weights."""
        return self.matrices.keys()

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors as they lie in the files."""
        return self.parts.size_bytes

    def is_quantised(self, name: str) -> bool:
        """Always: every weight is read by rows, also where nothing needs decoding."""
        return True

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a weight."""
        return self.matrices[name].shape

    def dtype(self, name: str) -> str:
        """Dtype of the rows as they are read: F16 and BF16 as they are stored, float32 for everything else."""
        kind = self.parts.kind(self.matrices[name].tensor)
        return kind if kind in PLAIN else "F32"

    @property
    def has_four_bits(self) -> bool:
        """Whether any weight runs as it is."""
        return any(self.format(name) == "group4" for name in self.matrices)

    def format(self, name: str) -> Format:
        """The packed format of a weight: four bits as they are, everything else in bfloat16."""
        return "group4" if self.parts.kind(self.matrices[name].tensor) in FOUR_BITS else "bf16"

    def formats(self, targets: Sequence[Target]) -> Formats:
        """The packed format of every target: Group4 where all its parts have four bits. Norms, routers: float32."""
        result: dict[str, Format] = {}
        for target in targets:
            found = {self.format(source.name) for parts in target.sources for source in parts}
            is_small = target.role in ("norm", "router")
            result[target.name] = "f32" if is_small else found.pop() if len(found) == 1 else "bf16"
        return result

    def rows(self, name: str, start: int, stop: int) -> AnyArray:
        """Rows start..stop of a weight, [rows, columns]; nothing else is decoded."""
        kind, found = self.stored_rows(name, start, stop)
        return found if kind in PLAIN else decode(kind, found)

    def codes(self, name: str, start: int, stop: int) -> GroupCodes:
        """Rows start..stop of a weight whose format is Group4, as their codes."""
        return group_codes_of(unpack(*self.stored_rows(name, start, stop)))

    def stored_rows(self, name: str, start: int, stop: int) -> tuple[str, AnyArray]:
        """The type of a weight, and rows of it as they lie in the file."""
        matrix = self.matrices[name]
        file = self.parts.homes[matrix.tensor]
        kind = file.entries[matrix.tensor].kind
        stored = file.plain(matrix.tensor) if kind in PLAIN else file.raw(matrix.tensor)
        found: AnyArray = stored[places(matrix, start, min(stop, rows_of(matrix.shape)))]
        return kind, found

    def prefetch(self, name: str, start: int, stop: int) -> None:
        """Ask for rows to be read from disk in the background."""
        file, begin, end = self.span(name, start, stop)
        file.advise(mmap.MADV_WILLNEED, begin, end, 0)

    def release(self, name: str, start: int, stop: int) -> None:
        """Unmap the pages around rows; a later access brings them back."""
        file, begin, end = self.span(name, start, stop)
        file.advise(mmap.MADV_DONTNEED, begin, end)

    def span(self, name: str, start: int, stop: int) -> tuple[GgufFile, int, int]:
        """File, first and last byte of rows; of turned ones about those."""
        matrix = self.matrices[name]
        file = self.parts.homes[matrix.tensor]
        entry = file.entries[matrix.tensor]
        first = entry.begin + matrix.first_row * entry.row_bytes
        return file, first + start * entry.row_bytes, first + stop * entry.row_bytes

    def matrices_of(self, tensor: str) -> Iterator[tuple[str, Matrix]]:
        """The weights a tensor holds, by their names."""
        shape = self.parts.shape(tensor)
        match = LAYER_NAME.fullmatch(tensor)
        if NEEDLESS.fullmatch(tensor):
            return
        if match and match[2] in STACKS and self.family == "llama4" and len(shape) == 3:
            name = f"model.layers.{match[1]}.feed_forward.experts"
            for expert in range(shape[0]):
                part = Matrix(tensor, shape[1:], expert * shape[1])
                yield f"{name}.{expert}.{STACKS[match[2]]}.weight", part
            return
        known = (
            f"model.layers.{match[1]}.{self.layer_name(match[2])}" if match else WHOLE.get(tensor[: -len(".weight")])
        )
        if known is None or known.endswith(".") or not tensor.endswith(".weight"):
            raise UnsupportedModel(
                f"{self.parts.path}: tensor {tensor!r} {list(shape)} belongs to no {self.family} network that can be "
                "run. Use the safetensors release of this model, or another model."
            )
        matrix = Matrix(tensor, shape)
        heads = self.turned.get(match[2], 0) if match else 0
        yield f"{known}.weight", replace(matrix, heads=check_heads(tensor, matrix, heads)) if heads else matrix

    def layer_name(self, part: str) -> str:
        """Name of a weight inside its layer; empty for an unknown one."""
        if part in FEED_FORWARD:
            return f"{'feed_forward' if self.family == 'llama4' else 'mlp'}.{FEED_FORWARD[part]}"
        if part in ROUTED and self.family == "llama4":
            return f"feed_forward.{ROUTED[part]}"
        return IN_LAYERS.get(part, "")


def group_codes_of(found: Grouped) -> GroupCodes:
    """Four-bit rows as Group4 keeps them: exact for Q4_0, else scales and zero points rounded to float16.

    A scale is then off by 2^-12 of it at most, a zero point between 0 and 15 by 2^-8: together less than rounding
    the weights themselves to bfloat16. Raises CheckpointError for scales that are too large for float16.
    """
    scales_NG = as_halves(found.scales_NG)
    if found.offsets_NG is None:
        return GroupCodes((found.codes_ND + np.int8(8)).view(np.uint8), scales_NG, np.full_like(scales_NG, 8))
    offsets_NG = as_halves(found.offsets_NG)
    steps_NG = np.divide(-found.offsets_NG, scales_NG, out=np.zeros_like(scales_NG), where=scales_NG != 0)
    is_flat_NG = (scales_NG == 0) | (np.abs(steps_NG) > LARGEST_HALF)  # all one value: code 0 of scale -b, zero point 1
    codes_NGC = found.codes_ND.view(np.uint8).reshape(*scales_NG.shape, -1) * ~is_flat_NG[..., None]
    return GroupCodes(
        codes_NGC.reshape(found.codes_ND.shape),
        np.where(is_flat_NG, -offsets_NG, scales_NG),
        np.where(is_flat_NG, np.float32(1), as_halves(np.where(is_flat_NG, np.float32(0), steps_NG))),
    )


def as_halves(numbers: Floats) -> Floats:
    """Rounded to float16."""
    if not (np.abs(numbers) <= LARGEST_HALF).all():
        raise CheckpointError("scales beyond 65,504, or not finite, in four-bit blocks. Download the file again.")
    result: Floats = numbers.astype(np.float16).astype(np.float32)
    return result


def rows_of(shape: tuple[int, ...]) -> int:
    """Rows of a weight; a vector is one."""
    return shape[0] if len(shape) > 1 else 1


def check_heads(tensor: str, matrix: Matrix, heads: int) -> int:
    """`heads`, if the rows of a matrix can be shared out to so many heads of pairs."""
    if len(matrix.shape) != 2 or matrix.shape[0] % (2 * heads):
        raise CheckpointError(
            f"tensor {tensor!r} has shape {list(matrix.shape)}; rows for {heads} heads of an even size were expected. "
            "The file is damaged; download it again."
        )
    return heads


def places(matrix: Matrix, start: int, stop: int) -> slice | npt.NDArray[np.int64]:
    """Where rows start..stop lie in their tensor: row 2j + s of a head that is turned is row j + s K/2 of ours."""
    if not matrix.heads:
        return slice(matrix.first_row + start, matrix.first_row + stop)
    rows = np.arange(start, stop)
    size = matrix.shape[0] // matrix.heads
    head, row = np.divmod(rows, size)
    second, pair = np.divmod(row, size // 2)
    result: npt.NDArray[Any] = head * size + 2 * pair + second
    return result


def layers_of(parts: GgufParts) -> int:
    """How many layers there are, by the names of the tensors; their numbers follow one another or it is refused."""
    numbers = {int(match[1]) for name in parts.homes if (match := LAYER_NAME.fullmatch(name))}
    if numbers != set(range(len(numbers))):
        lost = next(number for number in range(len(numbers)) if number not in numbers)
        raise CheckpointError(f"{parts.path} has tensors of {len(numbers)} layers, and none of layer {lost}. Download "
                              "it again.")  # fmt: skip
    return len(numbers)


def experts_of(parts: GgufParts) -> int:
    """How many experts the layers have, by the shapes of their stacks; 0 where there are none."""
    found = {
        parts.shape(name)[0]
        for name in parts.homes
        if (match := LAYER_NAME.fullmatch(name)) and match[2] in STACKS and len(parts.shape(name)) == 3
    }
    if len(found) > 1:
        raise CheckpointError(f"{parts.path} has layers of {sorted(found)} experts; one number was expected. Download "
                              "it again.")  # fmt: skip
    return next(iter(found), 0)


def rope_factors_of(parts: GgufParts) -> list[float]:
    """What the rotary frequencies are divided by, one number per pair; [] where nothing is said."""
    if ROPE_FACTORS not in parts.homes:
        return []
    file = parts.homes[ROPE_FACTORS]
    entry = file.entries[ROPE_FACTORS]
    if entry.kind != "F32" or len(entry.shape) != 1:
        raise CheckpointError(
            f"{file.path}: tensor {ROPE_FACTORS!r} is {entry.kind} {list(entry.shape)}; a float32 vector was expected. "
            "Download it again."
        )
    values: list[float] = file.plain(ROPE_FACTORS)[0].tolist()
    return values
