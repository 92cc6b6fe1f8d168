import json
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twofold.errors import CheckpointError
from twofold.weights.safetensors import DTYPES, SafetensorsFile

from .make import header_bytes, write_shard

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def file_of(tmp_path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "bad.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def check_refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile(path)
    message = str(caught.value)
    assert path.name in message
    for word in words:
        assert word in message, message


def with_entry(**changes: Any) -> dict[str, Any]:
    return {"a": ENTRY | changes}


# What is read ------------------------------------------------------------------------------------------------------


def test_what_the_safetensors_package_writes_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    random = np.random.default_rng(1)
    arrays = {
        name: (random.standard_normal((3, 5)) * 50).astype(DTYPES[name])
        for name in ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U8", "BOOL")
    }
    arrays["scalar"] = np.array(7.5, np.float32)
    arrays["empty"] = np.zeros((0, 4), np.float32)
    save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert file.metadata == {"format": "pt"}
    assert set(file.entries) == set(arrays)
    for name, expected in arrays.items():
        found = file.tensor(name)
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()


def test_our_generator_writes_what_the_safetensors_package_reads(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((4,), ml_dtypes.bfloat16)}
    write_shard(tmp_path / "x.safetensors", arrays)
    found = load_file(tmp_path / "x.safetensors")
    assert all(found[name].tobytes() == array.tobytes() for name, array in arrays.items())


def test_a_tensor_is_a_read_only_view_of_the_map(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "x.safetensors", {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0,), "f4")}
    )
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert np.shares_memory(file.tensor("a"), np.frombuffer(file.map, np.uint8))
    for name in ("a", "b"):
        with pytest.raises(ValueError, match="read-only"):
            file.tensor(name)[...] = 1


def test_a_view_outlives_its_file_and_its_pages_come_back_after_release(tmp_path: Path) -> None:
    values = np.arange(100_000, dtype=np.float32)
    write_shard(tmp_path / "x.safetensors", {"a": values})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    view = file.tensor("a")
    file.prefetch("a", 0, values.nbytes)
    file.release("a", 0, values.nbytes)
    del file
    assert np.array_equal(view, values)


def test_data_at_an_odd_byte_is_read(tmp_path: Path) -> None:
    text = json.dumps({"a": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
    text += b" " * (1 - len(text) % 2)
    values = np.array([1.5, -2, 3], ml_dtypes.bfloat16)
    path = file_of(tmp_path, text, values.tobytes())
    assert SafetensorsFile(path).tensor("a").tolist() == [1.5, -2, 3]


def test_a_file_without_tensors_is_a_file(tmp_path: Path) -> None:
    assert SafetensorsFile(file_of(tmp_path, {})).entries == {}


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_file_shorter_than_its_length_field_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(b"x" * size)
    check_refused(path, f"{size} bytes", "download it again")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    check_refused(tmp_path / "none.safetensors", "cannot be read", "No such file")


def test_a_header_longer_than_the_file_says_how_much_is_missing(tmp_path: Path) -> None:
    check_refused(file_of(tmp_path, b"{}", length=1000), "truncated", "998 bytes missing", "download it again")


def test_a_header_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    check_refused(file_of(tmp_path, b"{}", length=100_000_001), "100000001", "limit is 100000000")
    check_refused(file_of(tmp_path, b"{}", length=2**64 - 1), "no safetensors file")


def test_a_git_lfs_pointer_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    check_refused(path, "Git LFS pointer", "git lfs pull")


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (b"\xff\xfe{}", "UTF-8"),
        (b"{", "JSON"),
        (b"", "JSON"),
        (b"[1]", "JSON list"),
        (b"[" * 100_000, "JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "JSON"),
        (b'{"a": 1, "a": 2}', "duplicate key 'a'"),
    ],
)
def test_a_header_that_is_no_json_object_is_refused(tmp_path: Path, header: bytes, word: str) -> None:
    check_refused(file_of(tmp_path, header), word, "header", "download it again")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (with_entry(dtype="F4_E2M1"), ["unknown dtype 'F4_E2M1'", "BF16"]),
        (with_entry(dtype=["F32"]), ["unknown dtype"]),
        (with_entry(shape=[-2, -3]), ["shape"]),
        (with_entry(shape=[2.0, 3]), ["shape"]),
        (with_entry(shape=[True, 6]), ["shape"]),
        (with_entry(shape="23"), ["shape"]),
        (with_entry(shape=[1] * 33), ["shape"]),
        (with_entry(shape=[2**40, 2**40]), ["larger than any memory"]),
        (with_entry(shape=[0, 2**40, 2**40], data_offsets=[0, 0]), ["larger than any memory"]),
        (with_entry(shape=[2, 2]), ["24 bytes", "needs 16"]),
        (with_entry(data_offsets=[24, 0]), ["data_offsets"]),
        (with_entry(data_offsets=[-24, 0]), ["data_offsets"]),
        (with_entry(data_offsets=[0, 24, 48]), ["data_offsets"]),
        (with_entry(data_offsets=None), ["data_offsets"]),
        (with_entry(data_offsets=[0.0, 24.0]), ["data_offsets"]),
        (with_entry(data_offsets=[8, 32]), ["hole of 8 bytes", "'a'"]),
        (with_entry(extra=1), ["exactly dtype, shape and data_offsets"]),
        ({"a": {"dtype": "F32"}}, ["exactly dtype, shape and data_offsets"]),
        ({"a": 5}, ["exactly dtype, shape and data_offsets"]),
        ({"a": ENTRY, "b": ENTRY | {"data_offsets": [12, 36]}}, ["overlaps", "12 bytes", "'b'"]),
        ({"a": ENTRY, "b": ENTRY}, ["overlaps"]),
        ({"a": ENTRY, "__metadata__": {"x": 1}}, ["__metadata__"]),
        ({"a": ENTRY, "__metadata__": "x"}, ["__metadata__"]),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, header: Any, words: list[str]) -> None:
    check_refused(file_of(tmp_path, header, bytes(24)), *words)


def test_a_truncated_file_says_how_many_bytes_are_missing(tmp_path: Path) -> None:
    check_refused(file_of(tmp_path, {"a": ENTRY}, bytes(13)), "truncated", "11 bytes missing", "download it again")


def test_bytes_after_the_last_tensor_are_refused(tmp_path: Path) -> None:
    check_refused(file_of(tmp_path, {"a": ENTRY}, bytes(29)), "5 bytes follow")


# Fuzz --------------------------------------------------------------------------------------------------------------

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check_never_fails_otherwise(path: Path) -> None:
    """Either CheckpointError, or a file whose every tensor can be read inside its bounds."""
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return
    assert sum(file.tensor(name).nbytes for name in file.entries) <= path.stat().st_size


@FUZZ
@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_or_read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzz.safetensors"
    path.write_bytes(data)
    check_never_fails_otherwise(path)


@FUZZ
@given(data=st.binary(max_size=100), header=st.binary(max_size=100))
def test_random_headers_of_true_length_are_refused_or_read(tmp_path: Path, header: bytes, data: bytes) -> None:
    check_never_fails_otherwise(file_of(tmp_path, header, data))


NUMBERS = st.one_of(st.integers(-5, 50), st.integers(), st.floats(), st.booleans(), st.none())
ANYTHING = st.recursive(
    st.one_of(NUMBERS, st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "F4", 3]),
        "shape": st.lists(NUMBERS, max_size=4) | st.lists(st.integers(0, 4), max_size=4),
        "data_offsets": st.tuples(NUMBERS, NUMBERS) | st.tuples(st.integers(0, 20), st.integers(0, 60)),
    }
)


@FUZZ
@given(
    header=st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), ENTRIES | ANYTHING, max_size=4),
    data=st.binary(max_size=64),
)
def test_plausible_headers_are_refused_or_read(tmp_path: Path, header: dict[str, Any], data: bytes) -> None:
    check_never_fails_otherwise(file_of(tmp_path, header, data))


@FUZZ
@given(position=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 30))
def test_a_good_file_with_one_byte_changed_or_its_end_cut_is_refused_or_read(
    tmp_path: Path, position: int, value: int, cut: int
) -> None:
    entries = {"a": ENTRY, "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}}
    data = bytearray(header_bytes(entries) + bytes(32))
    data[position % len(data)] = value
    path = tmp_path / "fuzz.safetensors"
    path.write_bytes(data[: len(data) - cut])
    check_never_fails_otherwise(path)


def test_a_lying_header_makes_nothing_large(tmp_path: Path) -> None:
    paths = [
        file_of(tmp_path / "a", b"{}", length=99_999_999),
        file_of(tmp_path / "b", with_entry(shape=[2**30, 2**30], data_offsets=[0, 2**62])),
    ]
    tracemalloc.start()
    for path in paths:
        check_refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
