"""Int8 keys and values pass on the demo model, and fail on the same network where a few channels hide all others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from twofold import LLM
from twofold.bench import kv_gate
from twofold.bench.kv_gate import BAND_LIMIT, KL_LIMIT, KvGate, bands_of, gate_context, judge_kv_cache
from twofold.demo import heldout_file, model_folder
from twofold.errors import SettingsError
from twofold.ops.packed import BF16
from twofold.text.rows import read_rows
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.write import write_safetensors

FACTOR = 2.0**14


def plant_outlier_keys(folder: Path) -> Path:
    """The demo model with one channel of the global layer's keys made large and its queries small: the same network."""
    shutil.copytree(model_folder(), folder)
    checkpoint = Checkpoint.open(folder)
    tensors = {name: np.array(checkpoint.tensor(name)) for name in checkpoint.names}
    for part, heads, factor in (("q_proj", range(4), 1 / FACTOR), ("k_proj", range(2), FACTOR)):
        name = f"model.layers.3.self_attn.{part}.weight"  # without positions and QK-norm: channels scale freely
        values = tensors[name].astype(np.float32)
        for head in heads:
            values[64 * head + 5] *= factor
        assert (values == values.astype(BF16)).all()
        tensors[name] = values.astype(BF16)
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def load(model: str | Path, **settings: object) -> LLM:
    return LLM(model, kv_cache_dtype="f32", max_sequences=1, **settings)


def test_the_demo_model_passes_over_eight_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_gate, "MOST_TOKENS", 3 * 2048)  # of fifteen
    heard: list[int] = []
    found = judge_kv_cache(load("demo"), read_rows(heldout_file()), heard.append)
    assert found.passed
    assert found.tokens == 3 * found.longest == 3 * 2048
    assert 0 < found.bf16_kl < found.int8_kl < found.int8_kl_p99
    assert heard == [2048, 4096, 6144]
    assert found.int8_kl - found.bf16_kl < 0.8 * KL_LIMIT
    assert len(found.text) == 64


def test_outlier_keys_fail_although_the_network_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_gate, "MOST_TOKENS", 2048)
    planted = load(plant_outlier_keys(tmp_path / "planted"))
    ids = planted.encode("The quick brown fox jumps over the lazy dog.")
    np.testing.assert_allclose(planted.logits(ids), load("demo").logits(ids), rtol=1e-4, atol=1e-4)
    found = judge_kv_cache(planted, read_rows(heldout_file()))
    assert not found.passed
    assert found.int8_kl > 5 * KL_LIMIT
    assert found.bf16_kl < KL_LIMIT


def test_damage_in_one_band_alone_fails() -> None:
    good = {
        "tokens": 9, "longest": 9, "int8_kl": 0.001, "int8_kl_p99": 0.1, "int8_agreement": 0.98, "bf16_kl": 0.0005,
        "bf16_agreement": 0.985, "text": "",
    }  # fmt: skip
    assert KvGate(**good, worst_excess=BAND_LIMIT).passed
    assert not KvGate(**good, worst_excess=BAND_LIMIT * 1.01).passed
    assert not KvGate(**(good | {"int8_agreement": 0.96}), worst_excess=0).passed
    assert not KvGate(**(good | {"int8_kl": 0.003}), worst_excess=0).passed
    assert not KvGate(**(good | {"int8_kl": float("nan")}), worst_excess=0).passed


def test_bands_cover_every_position_once() -> None:
    for positions in (1, 511, 512, 1023, 1024, 2048, 2049, 16384):
        covered = [position for band in bands_of(positions) for position in range(band.start, band.stop)]
        assert covered == list(range(positions))
    assert [band.stop for band in bands_of(2048)] == [512, 1024, 2048]


def test_a_text_shorter_than_the_context_is_refused() -> None:
    with pytest.raises(SettingsError, match="one whole context"):
        judge_kv_cache(load("demo"), [{"text": "Too short."}])
    assert gate_context(2048) == 2048
    assert gate_context(10**7) == 16384
