"""GPTQ and AWQ, against a packing written down straight from the layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.weights.damage import Tensors, open_tensors, read_all, with_value, without
from tests.weights.golden import values_of
from twofold.errors import CheckpointError, UnsupportedModel
from twofold.weights.codecs import codec_of
from twofold.weights.quantised import QuantisedCheckpoint

RANDOM = np.random.default_rng(7)
N, D, GROUP = 48, 64, 16


def pack(codes: np.ndarray, bits: int, order: tuple[int, ...]) -> np.ndarray:
    """Codes along axis 0, so many to a word; nibble n of a word holds code order[n] of its stretch."""
    words = np.zeros((len(codes) * bits // 32, codes.shape[1]), np.uint32)
    for index in range(len(words)):
        for nibble, member in enumerate(order):
            words[index] |= codes[index * (32 // bits) + member].astype(np.uint32) << np.uint32(bits * nibble)
    return words.view(np.int32)


def straight(bits: int) -> tuple[int, ...]:
    return tuple(range(32 // bits))


def opened(folder: Path, config: dict[str, Any], **tensors: np.ndarray) -> QuantisedCheckpoint:
    return open_tensors(folder, config, {f"m.{name}": value for name, value in tensors.items()})


def check_rows(store: QuantisedCheckpoint, expected_ND: np.ndarray) -> None:
    assert store.shape("m.weight") == expected_ND.shape
    for start, stop in ((0, N), (16, 32), (32, N), (3, 7)):
        np.testing.assert_array_equal(values_of(store.rows("m.weight", start, stop)), expected_ND[start:stop])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("reordered", [False, True])
def test_gptq_weights_follow_the_layout(bits: int, layout: str, reordered: bool, tmp_path: Path) -> None:
    q_DN = RANDOM.integers(0, 2**bits, (D, N))
    z_GN = RANDOM.integers(1, 2**bits, (D // GROUP, N))
    s_GN = RANDOM.uniform(0.01, 0.1, (D // GROUP, N)).astype(np.float16)
    g_idx = np.arange(D, dtype=np.int32) // GROUP
    if reordered:
        RANDOM.shuffle(g_idx)
    stored = z_GN - 1 if layout == "gptq" else z_GN
    config = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "checkpoint_format": layout}
    store = opened(
        tmp_path,
        config,
        qweight=pack(q_DN, bits, straight(bits)),
        qzeros=np.ascontiguousarray(pack(stored.T, bits, straight(bits)).T),
        scales=s_GN,
        g_idx=g_idx,
    )
    expected_DN = (q_DN - z_GN[g_idx]).astype(np.float32) * s_GN[g_idx].astype(np.float32)
    check_rows(store, expected_DN.T)


def test_awq_weights_follow_the_layout(tmp_path: Path) -> None:
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    q_DN, z_GN = RANDOM.integers(0, 16, (D, N)), RANDOM.integers(0, 16, (D // GROUP, N))
    s_GN = RANDOM.uniform(0.01, 0.1, (D // GROUP, N)).astype(np.float16)
    store = opened(
        tmp_path,
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True},
        qweight=np.ascontiguousarray(pack(q_DN.T, 4, order).T),
        qzeros=np.ascontiguousarray(pack(z_GN.T, 4, order).T),
        scales=s_GN,
    )
    groups_D = np.arange(D) // GROUP
    expected_DN = (q_DN - z_GN[groups_D]).astype(np.float32) * s_GN[groups_D].astype(np.float32)
    check_rows(store, expected_DN.T)


def test_groups_are_told_by_the_scales_where_the_config_is_silent(tmp_path: Path) -> None:
    q_DN, s_GN = RANDOM.integers(0, 16, (D, N)), RANDOM.uniform(0.01, 0.1, (D // GROUP, N)).astype(np.float16)
    zeros = np.zeros((D // GROUP, N // 8), np.int32)
    config = {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}
    store = opened(tmp_path, config, qweight=pack(q_DN, 4, straight(4)), qzeros=zeros, scales=s_GN)
    check_rows(store, (q_DN * np.repeat(s_GN.astype(np.float32), GROUP, axis=0)).astype(np.float32).T)


def test_one_group_of_all_inputs_is_minus_one(tmp_path: Path) -> None:
    q_DN, s_1N = RANDOM.integers(0, 16, (D, N)), RANDOM.uniform(0.01, 0.1, (1, N)).astype(np.float16)
    config = {"quant_method": "gptq", "bits": 4, "group_size": -1, "checkpoint_format": "gptq_v2"}
    zeros = np.zeros((1, N // 8), np.int32)
    store = opened(tmp_path, config, qweight=pack(q_DN, 4, straight(4)), qzeros=zeros, scales=s_1N)
    check_rows(store, (q_DN * s_1N.astype(np.float32)).astype(np.float32).T)


# What is refused ---------------------------------------------------------------------------------------------------


def test_configs_that_cannot_be_read_are_refused() -> None:
    config: dict[str, Any] = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(UnsupportedModel, match="bits = 3"):
        codec_of({"quantization_config": {**config, "bits": 3}})
    with pytest.raises(UnsupportedModel, match="marlin"):
        codec_of({"quantization_config": {**config, "checkpoint_format": "marlin"}})
    with pytest.raises(UnsupportedModel, match="gemv"):
        codec_of({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "GEMV"}})
    with pytest.raises(UnsupportedModel, match="'bitsandbytes'"):
        codec_of({"quantization_config": {"quant_method": "bitsandbytes"}})
    with pytest.raises(CheckpointError, match="object with quant_method"):
        codec_of({"quantization_config": {"bits": 4}})
    with pytest.raises(UnsupportedModel, match=r"bits = 4\.0"):
        codec_of({"quantization_config": {**config, "bits": 4.0}})
    for size in (0, -2, 2.5, "128", True):
        with pytest.raises(CheckpointError, match="group_size"):
            codec_of({"quantization_config": {**config, "group_size": size}})


SOUND: dict[str, tuple[dict[str, Any], Tensors]] = {
    "gptq": (
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP},
        {
            "m.qweight": np.zeros((8, N), np.int32),
            "m.qzeros": np.zeros((4, N // 8), np.int32),
            "m.scales": np.ones((4, N), np.float16),
            "m.g_idx": np.zeros(D, np.int32),
        },
    ),
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": GROUP},
        {
            "m.qweight": np.zeros((D, N // 8), np.int32),
            "m.qzeros": np.zeros((4, N // 8), np.int32),
            "m.scales": np.ones((4, N), np.float16),
        },
    ),
}
WRONG: list[tuple[str, str, Any, str]] = [
    ("gptq", "qzeros", None, "qzeros is missing"),
    ("gptq", "scales", None, "scales is missing"),
    ("gptq", "qweight", np.zeros((8,), np.int32), "two matrices"),
    ("gptq", "qweight", np.zeros((0, N), np.int32), "two matrices"),
    ("gptq", "qweight", np.zeros((8, N), np.float32), "belongs to its module"),
    ("gptq", "qweight", np.zeros((7, N), np.int32), "belongs to its module"),
    ("gptq", "qzeros", np.zeros((4, 5), np.int32), "belongs to its module"),
    ("gptq", "qzeros", np.zeros((3, N // 8), np.int32), "belongs to its module"),
    ("gptq", "scales", np.ones((4,), np.float16), "two matrices"),
    ("gptq", "scales", np.ones((8, N), np.float16), "belongs to its module"),
    ("gptq", "scales", np.ones((4, N), np.int32), "belongs to its module"),
    ("gptq", "g_idx", np.zeros(D - 1, np.int32), "belongs to its module"),
    ("gptq", "g_idx", np.full(D, 9, np.int32), "groups from 0 to 3"),
    ("gptq", "g_idx", np.full(D, -1, np.int32), "groups from 0 to 3"),
    ("awq", "qweight", np.zeros((D, N // 8 + 1), np.int32), "belongs to its module"),
    ("awq", "qzeros", np.zeros((4, N), np.int32), "belongs to its module"),
    ("awq", "scales", np.ones((4, N // 8), np.float16), "belongs to its module"),
]


@pytest.mark.parametrize("kind", SOUND)
def test_the_modules_that_are_damaged_below_are_read_while_they_are_sound(kind: str, tmp_path: Path) -> None:
    read_all(open_tensors(tmp_path, *SOUND[kind]))


@pytest.mark.parametrize(("kind", "part", "changed", "words"), WRONG)
def test_a_tensor_that_does_not_fit_its_module_is_refused(
    kind: str, part: str, changed: Any, words: str, tmp_path: Path
) -> None:
    config, sound = SOUND[kind]
    tensors = without(sound, f"m.{part}")
    with pytest.raises(CheckpointError, match=words):
        read_all(open_tensors(tmp_path, config, tensors if changed is None else {**tensors, f"m.{part}": changed}))


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scales_that_are_no_numbers_are_refused(kind: str, value: float, tmp_path: Path) -> None:
    config, sound = SOUND[kind]
    with pytest.raises(CheckpointError, match=r"m\.scales holds NaN, infinity or"):
        read_all(open_tensors(tmp_path, config, with_value(sound, "m.scales", value)))
