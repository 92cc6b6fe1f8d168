"""Blocks are decoded to the very bits of the gguf package, whole or by rows."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from twofold.weights.gguf_blocks import BLOCKS, PIECE_VALUES, decode, unpack
from twofold.weights.gguf_types import TYPE_NAMES

from .make_gguf import K_KINDS, random_blocks


def expected(kind: str, raw: np.ndarray) -> np.ndarray:
    return dequantize(raw, GGMLQuantizationType[kind])


@pytest.mark.parametrize("kind", BLOCKS)
def test_random_blocks_become_the_same_bits(kind: str) -> None:
    raw = random_blocks(kind, 37, 1024, seed=1)
    np.testing.assert_array_equal(decode(kind, raw).view(np.uint32), expected(kind, raw).view(np.uint32))


@pytest.mark.parametrize("kind", [kind for kind in BLOCKS if kind not in K_KINDS])
def test_what_the_package_has_quantised_comes_back_near(kind: str) -> None:
    values = np.random.default_rng(2).standard_normal((16, 256), np.float32)
    raw = quantize(values, GGMLQuantizationType[kind])
    np.testing.assert_array_equal(decode(kind, raw), expected(kind, raw))
    step = 8 / 2 ** int(kind[1])  # values reach 4 in both directions; symmetric types may miss by a whole step
    assert np.abs(decode(kind, raw) - values).max() < step


@pytest.mark.parametrize("kind", BLOCKS)
def test_rows_are_decoded_alone(kind: str) -> None:
    raw = random_blocks(kind, 20, 512, seed=3)
    whole = decode(kind, raw)
    np.testing.assert_array_equal(decode(kind, raw[7:12]), whole[7:12])
    np.testing.assert_array_equal(decode(kind, raw[[3, 3, 19, 0]]), whole[[3, 3, 19, 0]])


@pytest.mark.parametrize("kind", BLOCKS)
def test_more_than_one_piece_is_decoded(kind: str) -> None:
    raw = random_blocks(kind, 2, PIECE_VALUES + 256, seed=4)
    np.testing.assert_array_equal(decode(kind, raw), expected(kind, raw))


@pytest.mark.parametrize("kind", BLOCKS)
def test_codes_and_scales_say_the_same(kind: str) -> None:
    raw = random_blocks(kind, 5, 768, seed=5)
    found = unpack(kind, raw)
    assert found.codes_ND.shape == (5, 768)
    assert found.scales_NG.shape == (5, 768 // (16 if kind == "Q6_K" else 32))
    np.testing.assert_array_equal(found.values(), expected(kind, raw))


@pytest.mark.parametrize("kind", BLOCKS)
def test_scales_that_are_no_numbers_give_weights_that_are_none(kind: str) -> None:
    raw = np.full((1, BLOCKS[kind].size_bytes), 0xFF, np.uint8)
    assert np.isnan(decode(kind, raw)).any()


def test_sizes_and_names_are_those_of_the_package() -> None:
    for kind in GGMLQuantizationType:
        assert TYPE_NAMES[kind.value] == kind.name
        if kind.name in BLOCKS:
            assert GGML_QUANT_SIZES[kind] == (BLOCKS[kind.name].columns, BLOCKS[kind.name].size_bytes)
