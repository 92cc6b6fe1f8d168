"""Parts of packed weights hold the values of those rows, columns and experts, in every format."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twofold.backends.gpu.shards import Cut, check_cut, stretch_of, take
from twofold.backends.gpu.weights import decode, to_device
from twofold.errors import SettingsError
from twofold.ops.cases import FORMATS, pack
from twofold.ops.packed import Format, Packed
from twofold.ops.reference import ReferenceOps
from twofold.ops.types import Target

CPU = torch.device("cpu")
CUTS = [
    Cut(),
    Cut(kind="rows", rows=(range(16, 32), range(48, 80))),
    Cut(kind="rows", rows=(range(32, 83),)),
    Cut(kind="partial", columns=range(64, 128)),
    Cut(kind="partial", columns=range(128, 150)),
    Cut(kind="rows", rows=(range(0, 16), range(64, 83)), columns=range(64, 150)),
]


def weight(form: Format, *shape: int) -> Packed:
    return pack(ReferenceOps(), form, np.random.default_rng(4).standard_normal(shape, np.float32))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_part_has_the_values_of_its_rows_and_columns(form: Format, cut: Cut) -> None:
    whole = weight(form, 83, 150)
    rows = np.concatenate([np.array(stretch) for stretch in cut.rows or (range(83),)])
    expected = decode(to_device(whole, CPU))[rows][:, np.array(cut.columns or range(150))]
    part = to_device(take(whole, cut), CPU)
    assert part.shape == cut.shape((83, 150)) == tuple(expected.shape)
    assert torch.equal(decode(part), expected)


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "refined"])
def test_a_part_of_a_stack_has_some_experts_or_some_of_their_width(form: Format) -> None:
    whole = weight(form, 5, 64, 128)
    values = decode(to_device(whole, CPU))
    some = to_device(take(whole, Cut(kind="experts", experts=range(3, 5))), CPU)
    assert some.shape == (2, 64, 128)
    assert torch.equal(decode(some), values[3:])
    narrow = to_device(take(whole, Cut(kind="rows", rows=(range(16, 32), range(48, 64)))), CPU)
    assert torch.equal(decode(narrow), torch.cat([values[:, 16:32], values[:, 48:]], dim=1))


def test_a_norm_is_never_cut() -> None:
    whole = weight("f32", 20)
    assert torch.equal(decode(to_device(take(whole, Cut()), CPU)), decode(to_device(whole, CPU)))
    assert Cut().shape((20,)) == (20,)


def test_parts_cover_everything_once_and_differ_by_a_unit() -> None:
    for count, unit, ranks in ((90, 16, 2), (64, 64, 1), (16384, 64, 7), (8, 1, 3), (202048, 16, 8)):
        parts = [stretch_of(count, unit, rank, ranks) for rank in range(ranks)]
        assert [index for part in parts for index in part] == list(range(count))
        assert all(part.start % unit == 0 for part in parts)
        assert max(map(len, parts)) - min(map(len, parts)) <= unit


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (Cut(kind="rows", rows=(range(0, 8), range(64, 96))), "96 rows"),
        (Cut(kind="rows", rows=(range(24, 96),)), "96 rows"),
        (Cut(kind="partial", columns=range(0, 32)), "128 columns"),
    ],
)
def test_packed_weights_are_cut_between_panels_only(cut: Cut, said: str) -> None:
    target = Target(name="layers.0.qkv", role="attention", shape=(96, 128), sources=())
    check_cut(target, "bf16", cut)
    with pytest.raises(SettingsError, match=said):
        check_cut(target, "int4", cut)
