"""From a checkpoint to packed weights in one arena, reading each tensor once and in pieces.

Peak memory is the size of the packed weights, plus the piece in flight, plus the mapped pages of one expert matrix
where they are stored transposed: pages are given back as soon as they are packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from twofold.errors import OutOfMemory
from twofold.ops import codes
from twofold.ops.codes import Coded, Codes
from twofold.ops.formats import Formats, format_of
from twofold.ops.packed import (
    PANEL_ROWS,
    AnyArray,
    Dense,
    Fp8,
    Group4,
    Int4,
    Int8,
    Packed,
    Packer,
    Refined,
    matrix,
    place,
    size_bytes,
)
from twofold.ops.types import Source, Target, Weight
from twofold.weights.check import check_sources
from twofold.weights.gguf_checkpoint import GgufCheckpoint
from twofold.weights.quantised import QuantisedCheckpoint, Store
from twofold.weights.safetensors import DTYPES

PIECE_BYTES = 16 * 2**20
"""Source bytes packed in one call: enough panels for every core, little beside any model."""
PACKED_AS = {"int8": Int8, "int4": Int4, "refined": Refined, "group4": Group4, "fp8": Fp8}
TRANSPOSED_ROWS = 256
"""Least rows of a transposed piece: its reads are runs of this many elements."""


@dataclass(frozen=True)
class Part:
    """Rows start..stop of one source."""

    source: Source
    start: int
    stop: int


@dataclass(frozen=True)
class Piece:
    """One call of the packer: parts that follow one another, into rows first_row.. of a matrix."""

    into: Packed
    first_row: int
    parts: tuple[Part, ...]


def planned_bytes(targets: Sequence[Target], formats: Formats) -> int:
    """Bytes of all packed weights together, known before anything is read."""
    return sum(size_bytes(format_of(formats, target), target.shape) for target in targets)


def load(
    checkpoint: Store,
    targets: Sequence[Target],
    formats: Formats,
    packer: Packer,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Weight]:
    """Pack every target in its format; returns them by name. Codes that fit a format are stored as they are.

    All weights lie in one arena of the packer, in the order of the targets; where the packer moves them elsewhere, each
    has an arena of its own for a while. `progress(done, total)` hears the source bytes read so far. Sources may be
    float32, float16 or bfloat16. Raises MissingTensor or WrongTensor before anything is allocated, OutOfMemory when an
    arena cannot be had.
    """
    check_sources(checkpoint, targets)
    total = sum(source_bytes(checkpoint, source) for target in targets for parts in target.sources for source in parts)
    done = 0
    finished: dict[str, Weight] = {}
    for group in arena_groups(targets, packer):
        weights, _ = place_all(group, formats, packer)
        for count in fill_all(checkpoint, group, weights, packer):
            done += count
            if progress:
                progress(done, total)
        finished |= {target.name: packer.finish(weights[target.name], target) for target in group}
    return finished


def arena_groups(targets: Sequence[Target], packer: Packer) -> list[Sequence[Target]]:
    """The targets that lie in one arena together. Raises AssertionError for a name that comes twice."""
    names = [target.name for target in targets]
    assert len(set(names)) == len(names), "a target is listed twice"
    return [[target] for target in targets] if packer.moves_weights else [targets]


def fill_all(
    checkpoint: Store, targets: Sequence[Target], weights: Mapping[str, Packed], packer: Packer
) -> Iterator[int]:
    """Pack the targets piece by piece; yields the source bytes of each piece."""
    pieces = list(all_pieces(checkpoint, targets, weights))
    for piece, following in zip_longest(pieces, pieces[1:]):
        if following:
            prefetch(checkpoint, following)
        fill(gather(checkpoint, piece.parts, isinstance(piece.into, Group4)), piece, packer)
        release(checkpoint, piece)
        yield sum((part.stop - part.start) * row_bytes(checkpoint, part.source) for part in piece.parts)


def place_all(
    targets: Sequence[Target], formats: Formats, packer: Packer
) -> tuple[dict[str, Packed], npt.NDArray[np.uint8]]:
    """One arena for all targets, in their order, and the weights in it; contents undefined."""
    total = planned_bytes(targets, formats)
    try:
        arena = packer.arena(total)
    except MemoryError as error:
        raise OutOfMemory(
            f"the weights need {total} bytes and the system refused them. Choose a smaller --dtype or free memory."
        ) from error
    return place_in(arena, targets, formats), arena


def place_in(arena: npt.NDArray[np.uint8], targets: Sequence[Target], formats: Formats) -> dict[str, Packed]:
    """The weights that lie in an arena, in the order of the targets."""
    weights: dict[str, Packed] = {}
    offset = 0
    for target in targets:
        form = format_of(formats, target)
        size = size_bytes(form, target.shape)
        weights[target.name] = place(form, target.shape, arena[offset : offset + size])
        offset += size
    return weights


def all_pieces(checkpoint: Store, targets: Sequence[Target], weights: Mapping[str, Packed]) -> Iterator[Piece]:
    """The pieces of every target, in the order in which they are packed."""
    for target in targets:
        weight = weights[target.name]
        for index, sources in enumerate(target.sources):
            if len(target.shape) == 1:
                assert isinstance(weight, Dense), f"{target.name}: a vector is Dense"
                into: Packed = Dense(weight.values[None])
            else:
                into = matrix(weight, index) if len(target.shape) > 2 else weight
            yield from matrix_pieces(checkpoint, sources, into)


def matrix_pieces(checkpoint: Store, sources: Sequence[Source], into: Packed) -> Iterator[Piece]:
    """One matrix cut into pieces of whole panels, about PIECE_BYTES each."""
    rows = sum(source.rows for source in sources)
    widest = max(row_bytes(checkpoint, source) for source in sources)
    step = max(PANEL_ROWS, PIECE_BYTES // max(widest, 1) // PANEL_ROWS * PANEL_ROWS)
    if any(source.transposed for source in sources):
        step = max(step, TRANSPOSED_ROWS)
    for start in range(0, rows, step):
        yield Piece(into, start, tuple(cut(sources, start, min(start + step, rows))))


def cut(sources: Sequence[Source], start: int, stop: int) -> Iterator[Part]:
    """The parts of the sources that make up rows start..stop of the matrix they form together."""
    offset = 0
    for source in sources:
        first, last = max(start - offset, 0), min(stop - offset, source.rows)
        if first < last:
            yield Part(source, first, last)
        offset += source.rows


def row_bytes(checkpoint: Store, source: Source) -> int:
    """Source bytes behind one row of the matrix."""
    columns = source.shape[-2] if source.transposed else source.shape[-1]
    return columns * DTYPES[checkpoint.dtype(source.name)].itemsize


def source_bytes(checkpoint: Store, source: Source) -> int:
    """Bytes of the source's matrix in its file."""
    return source.rows * row_bytes(checkpoint, source)


def fill(rows: AnyArray | Coded, piece: Piece, packer: Packer) -> None:
    """Store codes where their format is the weight's (eight bits hold four-bit codes too), else pack values."""
    if isinstance(rows, Codes) and isinstance(piece.into, Int8) and rows.format == "int4":
        rows = codes.widen(rows)
    if isinstance(rows, np.ndarray):
        packer.encode(rows, piece.into, piece.first_row)
    elif isinstance(piece.into, PACKED_AS[rows.format]):
        codes.store(rows, piece.into, piece.first_row)
    else:
        packer.encode(rows.values(), piece.into, piece.first_row)


def gather(checkpoint: Store, parts: Sequence[Part], in_groups: bool = False) -> AnyArray | Coded:
    """The rows of the parts, one under another: a view of the file when one part is all there is."""
    found = [view(checkpoint, part, in_groups) for part in parts]
    coded = [rows for rows in found if not isinstance(rows, np.ndarray)]
    if len(coded) == len(found) and len({rows.format for rows in coded}) == 1:
        return codes.join(coded)
    integers = [rows for rows in coded if isinstance(rows, Codes) and rows.residual is None]
    if len(integers) == len(found):
        return codes.join([codes.widen(rows) for rows in integers])
    views = [rows if isinstance(rows, np.ndarray) else rows.values() for rows in found]
    if len(views) == 1:
        # Headers of old writers leave data at any byte; native packers want whole elements.
        return views[0] if views[0].flags.aligned else views[0].copy()
    if len({rows.dtype for rows in views}) > 1:
        views = [rows.astype(np.float32) for rows in views]
    return np.concatenate(views)


def view(checkpoint: Store, part: Part, in_groups: bool) -> AnyArray | Coded:
    """A part as a view of the mapped file, [rows, columns]; of what is quantised its codes, or decoded values."""
    source = part.source
    if isinstance(checkpoint, GgufCheckpoint):
        return (checkpoint.codes if in_groups else checkpoint.rows)(source.name, part.start, part.stop)
    if isinstance(checkpoint, QuantisedCheckpoint) and checkpoint.is_quantised(source.name):
        return checkpoint.rows(source.name, part.start, part.stop, source.expert)
    tensor = checkpoint.tensor(source.name)
    if source.expert is not None:
        tensor = tensor[source.expert]
    if tensor.ndim == 1:
        tensor = tensor[None]
    return (tensor.T if source.transposed else tensor)[part.start : part.stop]


def prefetch(checkpoint: Store, piece: Piece) -> None:
    """Ask for the pages of a piece ahead of time; the first piece of a transposed matrix asks for all of it."""
    for part in piece.parts:
        if isinstance(checkpoint, GgufCheckpoint):
            checkpoint.prefetch(part.source.name, part.start, part.stop)
            continue
        if checkpoint.is_quantised(part.source.name):
            continue
        if not part.source.transposed or part.start == 0:
            checkpoint.file(part.source.name).prefetch(part.source.name, *span(checkpoint, part))


def release(checkpoint: Store, piece: Piece) -> None:
    """Give the pages of a piece back; of a transposed matrix, which every piece crosses, after the last one."""
    for part in piece.parts:
        if isinstance(checkpoint, GgufCheckpoint):
            checkpoint.release(part.source.name, part.start, part.stop)
        elif isinstance(checkpoint, QuantisedCheckpoint) and checkpoint.is_quantised(part.source.name):
            checkpoint.release(part.source.name)
        elif not part.source.transposed or part.stop == part.source.rows:
            checkpoint.file(part.source.name).release(part.source.name, *span(checkpoint, part))


def span(checkpoint: Store, part: Part) -> tuple[int, int]:
    """First and last byte of a part, counted from the start of its tensor; of a transposed one, the whole matrix."""
    size, row = source_bytes(checkpoint, part.source), row_bytes(checkpoint, part.source)
    begin = (part.source.expert or 0) * size
    if part.source.transposed:
        return begin, begin + size
    return begin + part.start * row, begin + part.stop * row
