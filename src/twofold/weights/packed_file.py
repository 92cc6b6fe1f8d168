"""Packed weights in a file, to start without packing again: the arena as it lies in memory, behind a checked header.

The container is safetensors with one uint8 tensor, "arena". Its metadata says which scheme the bits follow and holds a
digest of the layout (name, format and shape of every weight, in order), so a file can never be read as something else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, get_args

import numpy as np
import numpy.typing as npt

from twofold.errors import CheckpointError
from twofold.ops.formats import Formats, format_of
from twofold.ops.packed import (
    AnyArray,
    Dense,
    Format,
    Fp8,
    Group4,
    Int4,
    MappingPacker,
    Packed,
    Packer,
    Refined,
    padded,
)
from twofold.ops.types import Target, Weight
from twofold.weights.load import arena_groups, place_all, place_in, planned_bytes
from twofold.weights.safetensors import SafetensorsFile
from twofold.weights.strict_json import parse_object

FILE_NAME = "weights.twofold"
VERSION = "2"
LINE_BYTES = 64
HEADER_BYTES = 4096
"""The weights begin at a multiple of this, a page, so that reads are aligned."""
READ_BYTES = 16 * 2**20
READERS = 4


@dataclass(frozen=True)
class PackedFile:
    """A file of packed weights whose header has been checked.

    dtype: its scheme; layout: digest of its weight table; formats: the format of every weight, where the scheme alone
    does not tell (None otherwise).
    """

    path: Path
    dtype: str
    layout: str
    size_bytes: int
    begin: int = HEADER_BYTES
    formats: Formats | None = None

    @classmethod
    def open(cls, path: Path) -> PackedFile:
        """Read the header; raises CheckpointError when it is damaged or of another version."""
        file = SafetensorsFile(path)
        metadata, entries = file.metadata, file.entries
        if metadata.get("twofold") != VERSION or list(entries) != ["arena"] or "dtype" not in metadata:
            raise CheckpointError(
                f"{path.name} is version {metadata.get('twofold')!r} of the packed format, {VERSION!r} was expected; "
                "pack the model again"
            )
        formats = parse_object(metadata["formats"].encode(), f"{path}: formats") if "formats" in metadata else None
        return cls(
            path,
            metadata["dtype"],
            metadata.get("layout", ""),
            file.tensor("arena").size,
            entries["arena"].begin,
            formats,
        )


def check_formats(file: PackedFile, targets: Sequence[Target]) -> None:
    """CheckpointError unless the formats a file lists are formats, for just these weights."""
    if file.formats is None:
        return
    known = get_args(Format)
    wrong = [target.name for target in targets if file.formats.get(target.name) not in known]
    if wrong:
        raise CheckpointError(
            f"{file.path.name} names no format for {len(wrong)} weights of this network, first {wrong[0]!r}; "
            "pack the model again"
        )


def layout_digest(targets: Sequence[Target], formats: Formats) -> str:
    """Digest of the weight table: names, formats and shapes in their order."""
    rows = [[target.name, format_of(formats, target), list(target.shape)] for target in targets]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def write_packed(
    path: Path,
    targets: Sequence[Target],
    formats: Formats,
    weights: Mapping[str, Packed],
    dtype: str,
) -> None:
    """Write all weights, under a temporary name until they are whole."""
    total = planned_bytes(targets, formats)
    metadata = {"twofold": VERSION, "dtype": dtype, "layout": layout_digest(targets, formats)}
    if any(target.name in formats for target in targets):
        metadata["formats"] = json.dumps({target.name: format_of(formats, target) for target in targets})
    entries = {"__metadata__": metadata, "arena": {"dtype": "U8", "shape": [total], "data_offsets": [0, total]}}
    text = json.dumps(entries).encode()
    header = text.ljust(padded(len(text) + 8, HEADER_BYTES) - 8)
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for target in targets:
            for array in arrays_of(weights[target.name]):
                write_padded(file, array)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def arrays_of(weight: Packed) -> Iterator[AnyArray]:
    """The arrays of a weight in the order of ops.packed.fields."""
    if isinstance(weight, Dense):
        yield weight.values
        return
    if isinstance(weight, Refined):
        yield from arrays_of(weight.coarse)
        yield from arrays_of(weight.residual)
        return
    if isinstance(weight, Fp8):
        yield from (weight.values, weight.scales)
    elif isinstance(weight, Group4):
        yield from (weight.codes, weight.halves)
    elif isinstance(weight, Int4):
        yield from (weight.codes, weight.multipliers, weight.scales)
    else:
        yield from (weight.codes, weight.scales)


def write_padded(file: BinaryIO, array: AnyArray) -> None:
    """An array's bytes, then zeros up to a whole cache line, as ops.packed.place expects."""
    data = array.reshape(-1).view(np.uint8)
    file.write(data.data)
    file.write(bytes(padded(data.size, LINE_BYTES) - data.size))


def read_packed(
    file: PackedFile,
    targets: Sequence[Target],
    formats: Formats,
    packer: Packer,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Weight]:
    """All weights of a file: mapped where the packer can, else read into its arenas by several threads.

    Raises CheckpointError when the file holds another network's weights.
    """
    total = planned_bytes(targets, formats)
    if file.layout != layout_digest(targets, formats) or file.size_bytes != total:
        raise CheckpointError(
            f"{file.path.name} holds the weights of another network than config.json describes "
            f"({file.size_bytes} bytes, {total} were expected); pack the model again"
        )
    report = progress or (lambda done, total: None)
    with file.path.open("rb") as source:
        arena = None
        if isinstance(packer, MappingPacker):
            arena = packer.map_file(source.fileno(), file.begin, total)
        if arena is None:
            return read_all(source, file, (targets, formats), packer, report)
    report(total, total)
    weights = place_in(arena, targets, formats)
    return {target.name: packer.finish(weights[target.name], target) for target in targets}


def read_all(
    source: BinaryIO,
    file: PackedFile,
    table: tuple[Sequence[Target], Formats],
    packer: Packer,
    report: Callable[[int, int], None],
) -> dict[str, Weight]:
    """All weights, in arenas of the packer that parallel reads fill."""
    targets, formats = table
    finished: dict[str, Weight] = {}
    done = 0
    with ThreadPoolExecutor(READERS) as readers:
        for group in arena_groups(targets, packer):
            weights, arena = place_all(group, formats, packer)
            read = partial(read_piece, source.fileno(), arena, file.begin + done)
            for count in readers.map(read, range(0, arena.size, READ_BYTES)):
                done += count
                report(done, file.size_bytes)
            finished |= {target.name: packer.finish(weights[target.name], target) for target in group}
    return finished


def read_piece(descriptor: int, arena: npt.NDArray[np.uint8], begin: int, start: int) -> int:
    """Read READ_BYTES of an arena whose first byte is byte `begin` of the file; returns how many there were."""
    return read_into(descriptor, arena[start : start + READ_BYTES], begin + start)


def read_into(descriptor: int, memory: npt.NDArray[np.uint8], start: int) -> int:
    """Read one stretch of the file; returns its bytes."""
    done = 0
    while done < memory.size:
        count = os.preadv(descriptor, [memory[done:].data], start + done)
        if count == 0:
            raise CheckpointError(f"the packed file ends {memory.size - done} bytes too soon; pack the model again")
        done += count
    return done
