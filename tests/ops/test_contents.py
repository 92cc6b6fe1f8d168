"""A block of a cache goes out as bytes and comes back into any block, on every backend and with every kind of items."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from twofold.backends.cpu.ops import CpuOps
from twofold.ops.attention_cases import ATTENTION_CASES, attend, new_cache
from twofold.ops.interface import Ops
from twofold.ops.reference import ReferenceOps
from twofold.ops.types import KvDtype

BACKENDS = [ReferenceOps, *(lambda kv_dtype, isa=isa: CpuOps(isa, kv_dtype=kv_dtype) for isa in ("generic", None))]


@pytest.mark.parametrize("make", BACKENDS, ids=["reference", "generic", "native"])
@pytest.mark.parametrize("kv_dtype", get_args(KvDtype))
def test_a_block_moved_through_bytes_is_the_same_block(make: type[ReferenceOps], kv_dtype: KvDtype) -> None:
    ops: Ops = make(kv_dtype)
    for case in ATTENTION_CASES[:7]:
        cache, other = new_cache(case, ops), new_cache(case, ops)
        attend(case, ops, max(case.lengths), cache=cache)
        contents = [ops.read_block([cache, cache], block) for block in range(case.blocks)]
        assert {len(content) for content in contents} == {ops.block_bytes([cache, cache])}
        for block, content in enumerate(contents):
            ops.write_block([other, other], case.blocks - 1 - block, content)
        assert [ops.read_block([other, other], block) for block in reversed(range(case.blocks))] == contents
        assert any(content.strip(b"\0") for content in contents), "nothing was written, so nothing was compared"


@pytest.mark.parametrize("make", BACKENDS, ids=["reference", "generic", "native"])
def test_a_content_of_another_size_is_refused_and_changes_nothing(make: type[ReferenceOps]) -> None:
    ops: Ops = make("bf16")
    case = ATTENTION_CASES[0]
    cache = new_cache(case, ops)
    before = ops.read_block([cache], 0)
    with pytest.raises(ValueError, match=f"{len(before) + 1} bytes; a block of this cache has {len(before)}"):
        ops.write_block([cache], 0, before + b"x")
    assert ops.read_block([cache], 0) == before


def test_what_is_read_is_a_copy() -> None:
    ops = ReferenceOps()
    case = ATTENTION_CASES[0]
    cache = new_cache(case, ops)
    before = ops.read_block([cache], 0)
    cache.keys[:] = np.float32(1)
    assert ops.read_block([cache], 0) != before
