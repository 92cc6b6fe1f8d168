"""Every backend, and every instruction set of the cpu backend, judged by the same cases against the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import get_args

import numpy as np
import pytest

from tests.conftest import backends, build_ops, tensor_of
from twofold.backends.cpu.ops import CpuOps, load_native
from twofold.ops.attention_cases import ATTENTION_CASES, AttentionCase, attend, new_cache
from twofold.ops.cases import (
    BUILDERS,
    LAYOUTS,
    ROUNDS_TO_BF16,
    ROW_EXCEPTIONS,
    Case,
    Tensor,
    attention_tolerance,
    cases,
    error,
    run,
    tolerance,
)
from twofold.ops.packed import AnyArray
from twofold.ops.reference import ReferenceOps
from twofold.ops.types import Array, KvDtype

KV_DTYPES = get_args(KvDtype)
NATIVE = [name for name in backends() if name != "reference"]


def arranged(arrange: Tensor, tensor: Tensor, array: AnyArray) -> Array:
    return tensor(arrange(array))


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("op", BUILDERS)
def test_an_op_agrees_with_the_reference_on_every_layout(name: str, op: str) -> None:
    native, reference = build_ops(name), ReferenceOps(rounds_to_bf16=name in ROUNDS_TO_BF16)
    for case in cases(op):
        expected, allowed = run(case, reference), tolerance(case, name)
        for layout, arrange in LAYOUTS.items():
            found = error(run(case, native, partial(arranged, arrange, tensor_of(native))), expected)
            assert found <= allowed.relative, f"{op} {case.name}, {layout}: {found}; {allowed.reason}"


@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("op", BUILDERS)
def test_a_row_of_a_batch_is_bit_equal_to_the_row_alone(name: str, op: str) -> None:
    if (name, op) in ROW_EXCEPTIONS:
        pytest.skip(ROW_EXCEPTIONS[name, op])
    ops = build_ops(name)
    for case in cases(op):
        together = run(case, ops, tensor_of(ops))
        for row in range(len(case.tokens[0])):
            alone = run(case, ops, tensor_of(ops), slice(row, row + 1))
            for many, one in zip(together, alone, strict=True):
                assert np.array_equal(many[row : row + 1], one), f"{op} {case.name}, row {row}"


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("case", ATTENTION_CASES, ids=str)
@pytest.mark.parametrize("name", NATIVE)
def test_attention_agrees_with_the_reference(name: str, case: AttentionCase, kv_dtype: KvDtype) -> None:
    expected = attend(case, build_ops("reference", kv_dtype), max(case.lengths))
    ops, allowed = build_ops(name, kv_dtype), attention_tolerance(name, kv_dtype)
    for arrange in LAYOUTS.values():
        tensor = partial(arranged, arrange, tensor_of(ops))
        found = error((attend(case, ops, max(case.lengths), tensor),), (expected,))
        assert found <= allowed.relative, f"{found}; {allowed.reason}"


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("case", ATTENTION_CASES, ids=str)
@pytest.mark.parametrize("name", NATIVE)
def test_attention_does_not_depend_on_how_tokens_are_cut_into_steps(
    name: str, case: AttentionCase, kv_dtype: KvDtype
) -> None:
    ops = build_ops(name, kv_dtype)
    if ("torch", "attend") in ROW_EXCEPTIONS and name == "torch":
        pytest.skip(ROW_EXCEPTIONS["torch", "attend"])
    whole = attend(case, ops, max(case.lengths), tensor_of(ops))
    for step in (1, 5, 32):
        if max(case.lengths) > 500 and step == 1:
            continue
        assert np.array_equal(attend(case, ops, step, tensor_of(ops)), whole), f"steps of {step}"


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads until the end of the test."""
    native = load_native()
    before = native.threads()
    yield native.set_threads
    native.set_threads(before)


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize(("index", "steps"), [(8, (1200, 2499)), (10, (1059, 353))])
def test_attention_split_along_the_context_is_the_same(
    threads: Callable[[int], None], index: int, steps: tuple[int, int], kv_dtype: KvDtype
) -> None:
    """Steps that end with one token of one sequence, or of each: a thread takes some heads of a part of the context."""
    case, ops = ATTENTION_CASES[index], CpuOps(kv_dtype=kv_dtype)
    assert max(case.lengths) > 1024, "longer than what one thread takes"
    results = []
    for count in (1, 2, 64):
        threads(count)
        results.append([attend(case, ops, step) for step in steps])
    for result in results[1:]:
        assert all(np.array_equal(one, other) for one, other in zip(result, results[0], strict=True))


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("name", NATIVE)
def test_what_a_block_held_before_does_not_matter(name: str, kv_dtype: KvDtype) -> None:
    case, ops = ATTENTION_CASES[1], build_ops(name, kv_dtype)
    cache = new_cache(case, ops)
    tensor = tensor_of(ops)
    assert np.isnan(attend(case, ops, 40, tensor, cache, np.nan)).any()
    assert np.array_equal(attend(case, ops, 5, tensor, cache), attend(case, ops, 5, tensor))


def test_cases_are_the_same_every_time() -> None:
    first: list[Case] = list(cases("experts"))
    for case, again in zip(first, cases("experts"), strict=True):
        assert case.name == again.name
        assert all(np.array_equal(a, b) for a, b in zip(case.tokens, again.tokens, strict=True))
