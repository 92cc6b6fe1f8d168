"""What transforms are for: outlier channels that ruin int8 activations, in a network that computes the same."""

from __future__ import annotations

from pathlib import Path

from benchmarks.ablations import plant_outliers
from twofold import LLM
from twofold.bench.evaluate import evaluate
from twofold.quant.recipe import Recipe
from twofold.quantising import quantise_model

ROWS = [{"text": "The quick brown fox jumps over the lazy dog. It is a sentence with every letter."}]


def test_rotation_restores_what_outlier_channels_ruin(tmp_path: Path) -> None:
    planted, reference = plant_outliers(tmp_path / "planted"), LLM("demo")
    assert evaluate(LLM(planted), ROWS, reference).kl_mean == 0.0
    found = {}
    for transform in ("none", "rotate"):
        output = quantise_model(planted, tmp_path / transform, Recipe("w8a8", "round", transform=transform))
        found[transform] = evaluate(LLM(output), ROWS, reference).kl_mean
    assert found["none"] > 10 * found["rotate"]
    assert found["rotate"] < 0.01
