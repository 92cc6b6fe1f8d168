"""Codes go into panels and come out as the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from twofold.ops import packed
from twofold.ops.codes import Codes, Fp8Codes, GroupCodes, join, store, widen
from twofold.ops.levels import LEVELS
from twofold.ops.packed import FP8, Format
from twofold.ops.reference import ReferencePacker


def make_codes(form: Format, rows: int, columns: int, seed: int = 0) -> Codes:
    random = np.random.default_rng(seed)
    s_N = random.uniform(0.1, 1, rows).astype(np.float32)
    if form == "int8":
        return Codes(random.integers(-127, 128, (rows, columns), np.int8), None, s_N)
    m_NG = random.integers(1, 9, (rows, -(-columns // 32))).astype(np.int8)
    m_NG *= random.choice([-1, 1], m_NG.shape).astype(np.int8)
    residual = make_codes("int4", rows, columns, seed + 1) if form == "refined" else None
    return Codes(random.choice(LEVELS, (rows, columns)), m_NG, s_N, residual)


@pytest.mark.parametrize("form", ["int8", "int4", "refined"])
@pytest.mark.parametrize(("rows", "columns"), [(16, 64), (33, 70), (1, 1), (48, 96)])
def test_panels_stand_for_the_values_of_the_codes(form: Format, rows: int, columns: int) -> None:
    codes = make_codes(form, rows, columns)
    assert codes.format == form
    weight = packed.place(form, (rows, columns), ReferencePacker().arena(packed.size_bytes(form, (rows, columns))))
    for start in range(0, rows, 16):
        store(codes.slice(start, start + 16), weight, start)
    np.testing.assert_array_equal(packed.decode(weight), codes.values())


def test_storing_what_the_packer_chose_gives_the_packers_bits() -> None:
    rows_ND = np.random.default_rng(2).standard_normal((32, 64)).astype(np.float32)
    q_ND, m_NG, s_N = packed.quantize_int4(rows_ND)
    sizes = packed.size_bytes("int4", (32, 64))
    theirs, ours = np.zeros(sizes, np.uint8), np.zeros(sizes, np.uint8)
    packed.encode(rows_ND, packed.place("int4", (32, 64), theirs), 0)
    store(Codes(q_ND, m_NG, s_N), packed.place("int4", (32, 64), ours), 0)
    np.testing.assert_array_equal(ours, theirs)


def test_eight_bits_hold_four_bit_codes_exactly() -> None:
    codes = make_codes("int4", 5, 70)
    assert widen(codes).format == "int8"
    np.testing.assert_array_equal(widen(codes).values(), codes.values())


def test_joined_codes_are_one_under_another() -> None:
    parts = [make_codes("refined", 3, 40, seed) for seed in (0, 5)]
    np.testing.assert_array_equal(join(parts).values(), np.concatenate([part.values() for part in parts]))


def make_groups(rows: int, columns: int) -> GroupCodes:
    random = np.random.default_rng(columns)
    pairs = random.uniform(-1, 1, (2, rows, -(-columns // 32))).astype(np.float16).astype(np.float32)
    return GroupCodes(random.integers(0, 16, (rows, columns), np.uint8), pairs[0], pairs[1])


def make_fp8(rows: int, columns: int) -> Fp8Codes:
    random = np.random.default_rng(columns)
    values_ND = random.standard_normal((rows, columns)).astype(FP8)
    return Fp8Codes(values_ND, random.uniform(0.1, 1, rows).astype(np.float32))


@pytest.mark.parametrize("make", [make_groups, make_fp8])
@pytest.mark.parametrize(("rows", "columns"), [(16, 64), (33, 70), (1, 1), (48, 96)])
def test_what_others_wrote_is_kept_bit_for_bit(
    make: Callable[[int, int], GroupCodes | Fp8Codes], rows: int, columns: int
) -> None:
    codes = make(rows, columns)
    form = codes.format
    weight = packed.place(form, (rows, columns), ReferencePacker().arena(packed.size_bytes(form, (rows, columns))))
    store(codes, weight, 0)
    np.testing.assert_array_equal(packed.decode(weight), codes.values())
    joined = join([codes, codes])
    np.testing.assert_array_equal(joined.values(), np.concatenate([codes.values()] * 2))
