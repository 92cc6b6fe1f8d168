"""What an exported folder says of itself: export.json. It is checked before a runtime sees the graph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twofold.errors import CheckpointError
from twofold.export.forms import DTYPES, Form, forms
from twofold.ops.formats import Formats
from twofold.ops.packed import Format
from twofold.weights.strict_json import read_json
from twofold.weights.write import write_json

FILE_NAME = "export.json"
GRAPH_NAME = "model.onnx"
WEIGHTS_NAME = "model.onnx.data"
VERSION = 2
TARGETS = ("portable", "onnxruntime", "genai")
TOKENIZER_NAMES = ("tokenizer.json", "tokenizer.model")
READ_BYTES = 2**24
HELD_AS: Mapping[Form, Format] = {
    "f32": "f32", "f16": "f32", "bf16": "f32", "int8": "int8", "fp8": "fp8", "int4": "group4",
}  # fmt: skip
"""What ONNX Runtime holds of a form on the CPU; int4 with a float32 scale per 32 codes has as many bits as Group4."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """target, dtype: as exported. opset: of the standard operators. is_packed: how a
    batch's past must lie (export.inputs). chunks: of every layer (ops.types.CacheShape).

    rounded: weights whose own four-bit codes int4 could not hold, so that they were rounded again.
    sizes: bytes of every file of the graph; digests: SHA-256 of these, of config.json and of the tokenizer.
    """

    target: str
    dtype: Form
    opset: int
    is_packed: bool
    kv_heads: int
    head_size: int
    chunks: tuple[int | None, ...]
    vocabulary: int
    rounded: tuple[str, ...]
    twofold: str
    sizes: Mapping[str, int]
    digests: Mapping[str, str]
    version: int = VERSION

    @property
    def is_masked(self) -> bool:
        """Whether the graph takes a mask and all layers' whole past (export.genai)."""
        return self.target == "genai"

    def write(self, folder: Path) -> None:
        """Write export.json."""
        write_json(folder / FILE_NAME, asdict(self))


@dataclass(frozen=True)
class ExportedGraph:
    """A folder whose network is a graph; its files have been checked."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> ExportedGraph:
        """Read and check a folder; CheckpointError when something is missing, damaged or another model's."""
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        return cls(folder, manifest)

    @property
    def dtype(self) -> str:
        """What its weights are."""
        return self.manifest.dtype

    @property
    def formats(self) -> Formats:
        """What a runtime holds and reads of every role."""
        return {role: HELD_AS[form] for role, form in forms(self.manifest.dtype).items()}


def is_exported(folder: Path) -> bool:
    """Whether a folder holds an export."""
    return (folder / FILE_NAME).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read export.json; CheckpointError when it is damaged or of another version."""
    raw = read_json(folder, FILE_NAME)
    if raw.get("version") != VERSION:
        raise CheckpointError(
            f"{folder / FILE_NAME} is version {raw.get('version')!r}, {VERSION} was expected; export the model again"
        )
    kinds: dict[str, type] = {
        "target": str, "dtype": str, "opset": int, "is_packed": bool, "kv_heads": int, "head_size": int,
        "chunks": list, "vocabulary": int, "rounded": list, "twofold": str, "sizes": dict,
        "digests": dict, "version": int,
    }  # fmt: skip
    for key, kind in kinds.items():
        if type(raw.get(key)) is not kind:
            raise CheckpointError(f"{folder / FILE_NAME}: {key} is {raw.get(key)!r}; export the model again")
    if raw["target"] not in TARGETS or raw["dtype"] not in DTYPES or not are_sound(raw):
        raise CheckpointError(f"{folder / FILE_NAME} was changed or is damaged; export the model again")
    values: dict[str, Any] = {key: tuple(raw[key]) if kinds[key] is list else raw[key] for key in kinds}
    return Manifest(**values)


def are_sound(raw: Mapping[str, Any]) -> bool:
    """Whether chunks, sizes and digests hold what they should."""
    chunks = all(item is None or (type(item) is int and item > 0) for item in raw["chunks"])
    sizes = all(type(item) is int for item in raw["sizes"].values()) and {GRAPH_NAME, WEIGHTS_NAME} == set(raw["sizes"])
    return chunks and sizes and all(isinstance(item, str) for item in [*raw["digests"].values(), *raw["rounded"]])


def check_files(folder: Path, manifest: Manifest) -> None:
    """CheckpointError for a file that is missing, of another size, or another model's.

    Weights are compared by size only, which takes no time; `check_digests` reads them.
    """
    for name, size in manifest.sizes.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(
                f"{folder} lacks {name}, {size:,} bytes of this export. Copy it too, or export again."
            )
        found = path.stat().st_size
        if found != size:
            raise CheckpointError(
                f"{path} has {found:,} bytes, {size:,} were exported; it is cut off or another export's. "
                "Copy it again, or export again."
            )
    for name in ("config.json", *TOKENIZER_NAMES):
        if name in manifest.digests:
            check_digest(folder, name, manifest.digests[name])


def check_digests(folder: Path, manifest: Manifest) -> None:
    """Read every file of the export; CheckpointError for one that was changed."""
    for name, digest in manifest.digests.items():
        check_digest(folder, name, digest)


def check_digest(folder: Path, name: str, digest: str) -> None:
    """CheckpointError unless a file is there and has this content."""
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{folder} lacks {name}, which belongs to this export. Copy it too, or export again.")
    if digest_of(path) != digest:
        raise CheckpointError(
            f"{path} is not the file that was exported with this graph: it was changed, or is another model's. "
            "Put the right one back, or export again."
        )


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()
