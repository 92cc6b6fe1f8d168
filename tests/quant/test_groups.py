"""Groups cover every matrix once and know their bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twofold.loading import open_model
from twofold.ops.formats import Formats
from twofold.quant.groups import group_units
from twofold.quant.quantise import quantise
from twofold.quant.units import cut
from twofold.weights.load import planned_bytes
from twofold.weights.stored_codes import stored_bytes, tensors_of

ToyFolder = Callable[[str], tuple[Path, Any]]


@pytest.mark.parametrize("name", ["interleaved-qk-norm", "odd-sizes", "llama3", "llama3-tied"])
def test_every_matrix_is_in_one_group(name: str, toy_folder: ToyFolder) -> None:
    model = open_model(toy_folder(name)[0])
    groups = group_units(cut(model.targets))
    grouped = [target for group in groups for target in group.targets]
    others = [target for target in model.targets if target.role in ("norm", "router")]
    assert sorted(target.name for target in (*grouped, *others)) == sorted(target.name for target in model.targets)
    assert len({group.name for group in groups}) == len(groups)
    formats: Formats = {target.name: "int8" for target in grouped}
    assert sum(group.memory_bytes("int8") for group in groups) == planned_bytes(grouped, formats)


def test_parts_of_a_layer_are_named_as_people_name_them(toy_folder: ToyFolder) -> None:
    names = [group.name for group in group_units(cut(open_model(toy_folder("interleaved-qk-norm")[0]).targets))]
    assert names[:3] == ["embedding", "layer 0 attention", "layer 0 feed-forward"]
    assert names[3:6] == ["layer 1 attention", "layer 1 shared expert", "layer 1 experts"]
    assert names[-1] == "head"


@pytest.mark.parametrize("form", ["int8", "int4", "refined"])
@pytest.mark.parametrize("shape", [(5, 33), (16, 64), (1, 32)])
def test_bytes_of_stored_codes_are_known_beforehand(form: Any, shape: tuple[int, int]) -> None:
    w_ND = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    codes, _ = quantise(w_ND, form, None, "w")
    found = tensors_of("w", codes)  # type: ignore[arg-type]
    assert sum(array.nbytes for array in found.values()) == stored_bytes(form, *shape)
