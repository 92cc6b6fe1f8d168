"""GPTQ and AWQ, against a packing written down straight from the layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.weights.make import write_shard
from twofold.errors import CheckpointError, UnsupportedModel
from twofold.weights.checkpoint import Checkpoint
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
    write_shard(folder / "model.safetensors", {f"m.{name}": value for name, value in tensors.items()})
    codec = codec_of({"quantization_config": config})
    assert codec is not None
    return QuantisedCheckpoint(Checkpoint.open(folder), codec)


def check_rows(store: QuantisedCheckpoint, expected_ND: np.ndarray) -> None:
    assert store.shape("m.weight") == expected_ND.shape
    for start, stop in ((0, N), (16, 32), (32, N), (3, 7)):
        np.testing.assert_array_equal(store.rows("m.weight", start, stop), expected_ND[start:stop])


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


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    words, scales = np.zeros((8, 48), np.int32), np.ones((4, 48), np.float16)
    config = {"quant_method": "gptq", "bits": 4}
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
    with pytest.raises(CheckpointError, match=r"scales.* is missing|qzeros.* is missing"):
        opened(tmp_path, config, qweight=words)
    with pytest.raises(CheckpointError, match="belongs to its module"):
        opened(tmp_path, config, qweight=words, scales=scales, qzeros=np.zeros((4, 5), np.int32))
    damaged = opened(
        tmp_path,
        config,
        qweight=words,
        scales=scales,
        qzeros=np.zeros((4, 6), np.int32),
        g_idx=np.full(64, 9, np.int32),
    )
    with pytest.raises(CheckpointError, match="groups from 0 to 3"):
        damaged.rows("m.weight", 0, 16)
