"""Packed formats: what every packer writes, bit by bit, and what reading back gives."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import backends, build_ops
from twofold.ops import packed
from twofold.ops.cases import FORMATS, generator, normal, pack
from twofold.ops.packed import BF16, AnyArray, Dense, Format, Int4, Int8, Packed
from twofold.ops.reference import ReferenceOps

SIZES = [(1, 1), (16, 64), (17, 65), (33, 100), (5, 32), (50, 7), (64, 256), (129, 40)]


def arrays(weight: Packed) -> list[AnyArray]:
    """Everything a packed weight holds, as bytes."""
    values = [getattr(weight, item.name) for item in dataclasses.fields(weight)]
    return [value.view(np.uint8) for value in values if isinstance(value, np.ndarray)]


def assert_same_bits(mine: Packed, other: Packed) -> None:
    assert type(mine) is type(other)
    for a, b in zip(arrays(mine), arrays(other), strict=True):
        assert np.array_equal(a, b)


def rows_as(values: AnyArray, dtype: str, layout: str) -> AnyArray:
    """The values as a checkpoint may hold them: any float dtype, rows or columns side by side, or every other one."""
    typed = values.astype(BF16 if dtype == "bfloat16" else dtype)
    if layout == "transposed":
        return np.ascontiguousarray(typed.T).T
    if layout == "strided":
        wide = np.zeros((typed.shape[0] * 2, typed.shape[1] * 3), typed.dtype)
        wide[::2, ::3] = typed
        return wide[::2, ::3]
    return typed


@pytest.mark.parametrize("layout", ["rows", "transposed", "strided"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", backends())
def test_every_packer_writes_the_bits_of_the_specification(name: str, form: Format, dtype: str, layout: str) -> None:
    packer = build_ops(name).packer
    for rows, columns in SIZES:
        values = rows_as(normal(generator(rows, columns), rows, columns), dtype, layout)
        weights = []
        for encode in (packed.encode, packer.encode):
            weight = packed.place(form, (rows, columns), np.zeros(packed.size_bytes(form, (rows, columns)), np.uint8))
            encode(values, weight, 0)
            weights.append(weight)
        assert_same_bits(*weights)


@settings(deadline=None, max_examples=60)
@given(
    data=st.data(),
    form=st.sampled_from(("int8", "int4")),
    name=st.sampled_from(backends()[1:]),
    rows=st.integers(1, 20),
    columns=st.integers(1, 80),
)
def test_packers_agree_on_any_values(data: st.DataObject, form: Format, name: str, rows: int, columns: int) -> None:
    # few distinct values make ties between multipliers and half-way roundings frequent
    alphabet = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 7.0, 7.5, -15.0, 3.0, 120.0, 127.0, 1e-8, 3.3e4])
    values = data.draw(st.lists(alphabet, min_size=rows * columns, max_size=rows * columns))
    values_ND = np.array(values, np.float32).reshape(rows, columns)
    assert_same_bits(pack(ReferenceOps(), form, values_ND), pack(build_ops(name), form, values_ND))


@pytest.mark.parametrize("name", backends())
def test_rows_may_come_in_several_calls(name: str) -> None:
    ops = build_ops(name)
    values = normal(generator(70), 70, 50)
    for form in FORMATS:
        size = packed.size_bytes(form, values.shape)
        weight = packed.place(form, values.shape, np.zeros(size, np.uint8))
        for first, last in [(48, 70), (0, 16), (16, 48)]:
            ops.packer.encode(values[first:last], weight, first)
        whole = packed.place(form, values.shape, np.zeros(size, np.uint8))
        packed.encode(values, whole, 0)
        assert_same_bits(weight, whole)


# int8: half a step of 1 / 127. int4: the extreme, where the multiplier one below the covering one won, is cut to
# 7 * 15 of 120 units, and with the other sign to 7 * 13.
@pytest.mark.parametrize(("form", "limit"), [("f32", 0.0), ("bf16", 2**-8), ("int8", 1 / 253), ("int4", 29 / 120)])
def test_decoding_returns_values_within_what_the_format_can_reach(form: Format, limit: float) -> None:
    for rows, columns in SIZES:
        values = normal(generator(rows, columns), rows, columns)
        decoded = packed.decode(pack(ReferenceOps(), form, values))
        assert decoded.shape == values.shape
        assert np.all(np.abs(decoded - values) <= limit * np.abs(values).max(axis=1, keepdims=True) + 1e-12)


def test_repacking_decoded_codes_changes_nothing() -> None:
    values = normal(generator(33, 70), 33, 70)
    first = pack(ReferenceOps(), "int8", values)
    assert isinstance(first, Int8)
    again = pack(ReferenceOps(), "int8", packed.decode(first))
    assert isinstance(again, Int8)
    assert np.array_equal(first.codes, again.codes)


def test_integers_of_int4_are_code_times_multiplier_and_fit_a_byte() -> None:
    weight = pack(ReferenceOps(), "int4", normal(generator(40, 96), 40, 96))
    assert isinstance(weight, Int4)
    assert np.abs(packed.integer_rows(weight).astype(np.int32)).max() <= 120


def test_memory_layout_is_as_documented() -> None:
    rows, columns = 33, 100
    weight = pack(ReferenceOps(), "int8", normal(generator(3), rows, columns))
    assert isinstance(weight, Int8)
    integers = packed.integer_rows(weight)
    for n, d in [(0, 0), (17, 63), (32, 99), (15, 4)]:
        assert weight.codes[n // 16, d // 4, n % 16, d % 4] == integers[n, d]
    dense = pack(ReferenceOps(), "f32", normal(generator(3), rows, columns))
    assert isinstance(dense, Dense)
    assert dense.values.shape == (rows, columns)
