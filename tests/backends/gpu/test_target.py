"""The instructions that Triton has no name for, as NVIDIA's manual defines them: no interpreter runs them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from twofold.backends.gpu.kernels import integer_tiles, target
from twofold.ops.levels import LEVELS

WORDS = [int(word) for word in np.random.default_rng(5).integers(0, 1 << 32, 200)]


def permuted(low: int, high: int, chosen: int) -> int:
    """prmt.b32: each of four nibbles names one of eight bytes, or by its fourth bit that byte's sign, eight times."""
    both = low | high << 32
    nibbles = [chosen >> 4 * place & 15 for place in range(4)]
    named = [both >> 8 * (nibble & 7) & 255 for nibble in nibbles]
    found = [byte if nibble < 8 else 255 * (byte >> 7) for byte, nibble in zip(named, nibbles, strict=True)]
    return sum(byte << 8 * place for place, byte in enumerate(found))


def looked_up(a: int, b: int, c: int, table: int) -> int:
    """lop3.b32: bit by bit, the entry of the table that the three bits name."""
    bits = (table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1 for i in range(32))
    return sum(bit << i for i, bit in enumerate(bits))


RUN = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shr": lambda a, b: a >> b,
    "prmt": permuted,
    "lop3": looked_up,
}


def run(assembly: str, **operands: int) -> dict[str, int]:
    """What stands in every register after the instructions; $n is named _n."""
    found = dict(operands)
    body = re.sub(r"\.reg [^;]*;|[{}]", "", assembly.replace("$", "_"))
    for line in filter(None, (part.strip() for part in body.split(";"))):
        name, rest = line.split(" ", 1)
        into, *inputs = [part.strip() for part in rest.split(",")]
        values = [found[part] if part in found else int(part, 0) for part in inputs]
        found[into] = RUN[name.split(".")[0]](*values) & 0xFFFFFFFF
    return found


def bytes_of(*words: int) -> list[int]:
    return np.array(words, np.uint32).view(np.int8).tolist()  # type: ignore[no-any-return]


def codes_of(word: int) -> list[int]:
    return [word >> 4 * place & 15 for place in range(8)]


def test_levels_come_nibble_after_nibble() -> None:
    table = [int(word) for word in LEVELS.view(np.uint32)]
    for word in WORDS:
        found = run(target._CUDA_LEVELS.value, _2=word, _3=table[0], _4=table[2], _5=0x32103210)
        assert bytes_of(found["_0"], found["_1"]) == [int(LEVELS[code]) for code in codes_of(word)]


def test_levels_are_the_sums_of_two_lookups() -> None:
    upper = (LEVELS[8:12] + 1).astype(np.int8).view(np.uint32)
    for word in WORDS:
        found = run(target._CUDA_SUMMANDS.value, _4=word, _5=int(LEVELS.view(np.uint32)[0]), _6=int(upper[0]))
        sums = np.add(bytes_of(found["_0"], found["_1"]), bytes_of(found["_2"], found["_3"]))
        assert sums.tolist() == [int(LEVELS[code]) for code in codes_of(word)]


def test_lower_levels_are_negative_and_upper_ones_are_not() -> None:
    """What makes signs of bytes summands."""
    assert (LEVELS[:8] < 0).all()
    assert (LEVELS[8:] >= 0).all()


def test_the_constants_of_the_lookups_are_those_they_are_given() -> None:
    body = target._CUDA_TABLES.value.split("and.b32 none, below, above;")[1]
    found = run(body, none=0)
    table, upper = LEVELS.view(np.uint32), (LEVELS[8:12] + 1).astype(np.int8).view(np.uint32)
    assert [found[f"_{place}"] for place in range(4)] == [int(table[0]), int(table[2]), 0x32103210, int(upper[0])]


@pytest.mark.parametrize("m", [-8, -1, 1, 5, 8])
def test_products_come_as_low_and_high_nibbles(m: int) -> None:
    products = (LEVELS.astype(np.int64) * m).astype(np.int8)
    table = [int(word) for word in products.view(np.uint32)]
    for word in WORDS[:50]:
        found = run(integer_tiles._CUDA_PRODUCTS.value, _2=word, _3=table[0], _7=table[1], _11=table[2], _15=table[3])
        codes = codes_of(word)
        assert bytes_of(found["_0"]) == [int(products[code]) for code in codes[0::2]]
        assert bytes_of(found["_1"]) == [int(products[code]) for code in codes[1::2]]


@pytest.mark.parametrize("m", [-8, -1, 1, 5, 8])
def test_products_come_nibble_after_nibble_too(m: int) -> None:
    products = (LEVELS.astype(np.int64) * m).astype(np.int8)
    table = {f"_{place + 3}": int(word) for place, word in enumerate(products.view(np.uint32))}
    for word in WORDS[:50]:
        found = run(target._CUDA_PRODUCTS32.value, _2=word, _7=0x32103210, **table)
        assert bytes_of(found["_0"], found["_1"]) == [int(products[code]) for code in codes_of(word)]


def test_the_lowest_bytes_of_four_words_are_one() -> None:
    found = run(target._CUDA_LOWEST.value, _1=0x11223301, _2=0x44556602, _3=0x77889903, _4=0xAABBCC04)
    assert bytes_of(found["_0"]) == [1, 2, 3, 4]


def test_activations_are_paired_like_the_levels() -> None:
    low, high = 0x03020100, 0x13121110
    found = run(target._CUDA_PAIRS.value, _2=low, _3=high)
    assert bytes_of(found["_0"], found["_1"]) == [0x00, 0x10, 0x01, 0x11, 0x02, 0x12, 0x03, 0x13]
