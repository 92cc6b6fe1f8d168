"""The container: what the gguf package writes is read, and every kind of damage has its message."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFEndian, GGUFWriter

from twofold.errors import CheckpointError, UnsupportedModel
from twofold.weights.gguf import GgufFile

from .make_gguf import random_blocks

VALUES: dict[str, tuple[str, Any]] = {
    "a.u8": ("uint8", 200), "a.i8": ("int8", -100), "a.u16": ("uint16", 60000), "a.i16": ("int16", -30000),
    "a.u32": ("uint32", 2**32 - 1), "a.i32": ("int32", -(2**31)), "a.f32": ("float32", 1e-5), "a.yes": ("bool", True),
    "a.no": ("bool", False), "a.u64": ("uint64", 2**64 - 1), "a.i64": ("int64", -(2**63)), "a.f64": ("float64", 1e-7),
    "a.text": ("string", "Grüße, 世界"), "a.words": ("array", ["<s>", "", "é"]), "a.numbers": ("array", [1, 2, 3]),
}  # fmt: skip


def small(path: Path, change: Callable[[GGUFWriter], None] | None = None, **settings: Any) -> Path:
    writer = GGUFWriter(path, "llama", **settings)
    if change:
        change(writer)
    writer.add_tensor("f32", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("f16", np.arange(6, dtype=np.float16).reshape(2, 3))
    raw = random_blocks("Q4_K", 2, 512, seed=1)
    writer.add_tensor("q4_k", raw, raw_dtype=GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def packed(count: int = 1, size: int = 8) -> bytes:
    return count.to_bytes(size, "little")


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return packed(len(data)) + data


def tensor(name: str, shape: list[int], kind: int, offset: int) -> bytes:
    sizes = b"".join(packed(size) for size in shape)
    return text(name) + packed(len(shape), 4) + sizes + packed(kind, 4) + packed(offset)


def write_raw(
    path: Path,
    keys: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: int = 256,
    counts: tuple[int, int] | None = None,
    start: bytes = b"GGUF" + packed(3, 4),
) -> Path:
    """A file put together by hand; `counts` of tensors and keys may lie."""
    keys, tensors = keys or [], [tensor("w", [4], 0, 0)] if tensors is None else tensors
    tensor_count, key_count = counts or (len(tensors), len(keys))
    head = start + packed(tensor_count) + packed(key_count) + b"".join(keys) + b"".join(tensors)
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(data))
    return path


def refused(path: Path, *words: str, kind: type[Exception] = CheckpointError) -> None:
    with pytest.raises(kind) as caught:
        GgufFile(path)
    for word in (path.name, *words):
        assert word in str(caught.value), str(caught.value)


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    def add(writer: GGUFWriter) -> None:
        for name, (kind, value) in VALUES.items():
            getattr(writer, f"add_{kind}")(name, value)

    found = GgufFile(small(tmp_path / "a.gguf", add)).metadata
    assert {name: found[name] for name in VALUES} == {name: value for name, (_, value) in VALUES.items()}
    assert found["general.architecture"] == "llama"
    assert found["a.yes"] is True


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    file = GgufFile(small(tmp_path / "a.gguf"))
    assert file.entries["f32"].shape == (3, 4)
    np.testing.assert_array_equal(file.plain("f32"), np.arange(12, dtype=np.float32).reshape(3, 4))
    np.testing.assert_array_equal(file.plain("f16"), np.arange(6, dtype=np.float16).reshape(2, 3))
    np.testing.assert_array_equal(file.raw("q4_k"), random_blocks("Q4_K", 2, 512, seed=1))
    assert not file.raw("q4_k").flags.writeable


def test_another_alignment_is_honoured(tmp_path: Path) -> None:
    file = GgufFile(small(tmp_path / "a.gguf", lambda writer: writer.add_custom_alignment(4096)))
    assert all(entry.begin % 4096 == 0 for entry in file.entries.values())
    assert file.plain("f32")[2, 3] == 11


def test_version_2_is_read(tmp_path: Path) -> None:
    file = GgufFile(write_raw(tmp_path / "a.gguf", start=b"GGUF" + packed(2, 4)))
    np.testing.assert_array_equal(file.plain("w"), [[0, 0, 0, 0]])


def test_arrays_may_hold_arrays(tmp_path: Path) -> None:
    inner = [packed(4, 4) + packed(2) + packed(7, 4) + packed(8, 4), packed(8, 4) + packed(1) + text("x")]
    key = text("a") + packed(9, 4) + packed(9, 4) + packed(2) + b"".join(inner)
    assert GgufFile(write_raw(tmp_path / "a.gguf", [key])).metadata == {"a": [[7, 8], ["x"]]}


def test_a_big_endian_file_is_refused_by_name(tmp_path: Path) -> None:
    refused(small(tmp_path / "a.gguf", endianess=GGUFEndian.BIG), "big-endian", kind=UnsupportedModel)


@pytest.mark.parametrize("version", [0, 1, 4])
def test_other_versions_are_refused(tmp_path: Path, version: int) -> None:
    path = write_raw(tmp_path / "a.gguf", start=b"GGUF" + packed(version, 4))
    refused(path, f"version {version}", "2 and 3", kind=UnsupportedModel)


@pytest.mark.parametrize(("number", "name"), [(10, "Q2_K"), (23, "IQ4_XS"), (39, "MXFP4"), (26, "I32"), (77, "77")])
def test_types_that_cannot_be_read_are_named_with_a_remedy(tmp_path: Path, number: int, name: str) -> None:
    path = write_raw(tmp_path / "a.gguf", tensors=[tensor("w", [256], number, 0)])
    refused(path, name, "Q4_K_M", "'w'", kind=UnsupportedModel)


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = small(tmp_path / "a.gguf", lambda writer: writer.add_array("words", ["a", "bc", "def"])).read_bytes()
    end = max(entry.end for entry in GgufFile(tmp_path / "a.gguf").entries.values())
    for length in [*range(0, 400), *range(400, end, 7), end - 1]:
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        refused(tmp_path / "cut.gguf", "truncated" if length > 400 else "cut.gguf")


def test_no_file_and_other_files_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "gone.gguf", "cannot be read")
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04" + bytes(100))
    refused(tmp_path / "x.gguf", "begins with", "GGUF")
    (tmp_path / "lfs.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    refused(tmp_path / "lfs.gguf", "git lfs pull")


HUGE = 2**63


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"counts": (HUGE, 0)}, "tensors, more than"),
        ({"counts": (0, HUGE)}, "keys, more than"),
        ({"counts": (1, 100_000), "data": 2_000_000}, "keys, more than"),
        ({"keys": [packed(HUGE) + b"a"]}, "the limit is"),
        ({"keys": [text("a") + packed(8, 4) + packed(HUGE)]}, "the limit is"),
        ({"keys": [text("a") + packed(8, 4) + packed(10**6)]}, "truncated inside key 'a'"),
        ({"keys": [text("a") + packed(9, 4) + packed(4, 4) + packed(HUGE)]}, "truncated inside key 'a'"),
        ({"keys": [text("a") + packed(9, 4) + packed(8, 4) + packed(HUGE)]}, "more than the file can hold"),
        ({"keys": [text("a") + packed(9, 4) + packed(8, 4) + packed(2) + packed(10**6)]}, "truncated inside key 'a'"),
        ({"keys": [text("a") + packed(9, 4) + packed(9, 4) + packed(HUGE)]}, "more than the file can hold"),
        ({"keys": [text("a") + packed(9, 4) + (packed(9, 4) + packed(1)) * 9]}, "nests arrays"),
        ({"keys": [text("a") + packed(13, 4)]}, "unknown value type 13"),
        ({"keys": [text("a") + packed(9, 4) + packed(13, 4) + packed(1)]}, "unknown value type 13"),
        ({"keys": [text("a") + packed(7, 4) + b"\x02"]}, "truth value of 2"),
        ({"keys": [text("a") + packed(0, 4) + b"\x02"] * 2}, "key 'a' is there twice"),
        ({"keys": [text(b"\xff") + packed(0, 4) + b"\x02"]}, "not UTF-8"),
        ({"keys": [text("a") + packed(8, 4) + text(b"ab\xff")]}, "not UTF-8 text (byte 2)"),
        ({"keys": [text("a") + packed(9, 4) + packed(8, 4) + packed(2) + text("b") + text(b"\xc3")]}, "item 1"),
        ({"keys": [text("general.alignment") + packed(4, 4) + packed(0, 4)]}, "general.alignment is 0"),
        ({"keys": [text("general.alignment") + packed(4, 4) + packed(48, 4)]}, "general.alignment is 48"),
        ({"keys": [text("general.alignment") + packed(4, 4) + packed(2**31, 4)]}, "general.alignment is"),
        ({"keys": [text("general.alignment") + packed(8, 4) + text("32")]}, "general.alignment is '32'"),
        ({"tensors": [tensor("w", [], 0, 0)]}, "0 dimensions"),
        ({"tensors": [tensor("w", [1] * 5, 0, 0)]}, "5 dimensions"),
        ({"tensors": [tensor("w", [4, 0], 0, 0)]}, "no file can hold"),
        ({"tensors": [tensor("w", [2**40, 2**40], 0, 0)]}, "no file can hold"),
        ({"tensors": [tensor("w", [4], 0, HUGE)]}, "no file can hold"),
        ({"tensors": [tensor("w", [33], 2, 0)]}, "33 columns; Q4_0 has blocks of 32"),
        ({"tensors": [tensor("w", [128, 2], 14, 0)]}, "128 columns; Q6_K has blocks of 256"),
        ({"tensors": [tensor("w", [4], 0, 8)]}, "a multiple of 32"),
        ({"tensors": [tensor("w", [1000], 0, 0)]}, "truncated: 320 bytes found"),
        ({"tensors": [tensor("w", [4], 0, 256)]}, "truncated"),
        ({"tensors": [tensor("w", [4], 0, 0)] * 2}, "listed twice"),
        ({"tensors": [tensor("v", [16], 0, 0), tensor("w", [4], 0, 32)]}, "overlaps the one before it by 32"),
        ({"tensors": [tensor("x" * 2000, [4], 0, 0)], "data": 4000}, "the limit is 1024"),
    ],
)  # fmt: skip
def test_damage_is_told_before_anything_is_allocated(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    refused(write_raw(tmp_path / "a.gguf", **settings), words)


def test_numbers_without_a_value_are_an_empty_list(tmp_path: Path) -> None:
    keys = [text("a") + packed(9, 4) + packed(6, 4) + packed(0), text("b") + packed(6, 4) + struct.pack("<f", 0.1)]
    assert GgufFile(write_raw(tmp_path / "a.gguf", keys)).metadata == {"a": [], "b": 0.1}
