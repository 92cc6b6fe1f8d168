"""Every backend, and every instruction set of the cpu backend, judged by the same cases against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import backends, build_ops
from twofold.ops.attention_cases import ATTENTION_CASES, AttentionCase, attend
from twofold.ops.cases import BUILDERS, LAYOUTS, ROW_EXCEPTIONS, SOFTMAX, Case, cases, error, run
from twofold.ops.interface import Ops
from twofold.ops.reference import ReferenceOps

NATIVE = [name for name in backends() if name != "reference"]


@pytest.fixture(params=NATIVE)
def native(request: pytest.FixtureRequest) -> Ops:
    return build_ops(request.param)


@pytest.mark.parametrize("op", BUILDERS)
def test_an_op_agrees_with_the_reference_on_every_layout(native: Ops, op: str) -> None:
    for case in cases(op):
        expected = run(case, ReferenceOps())
        for name, arrange in LAYOUTS.items():
            found = error(run(case, native, arrange), expected)
            assert found <= case.tolerance.relative, f"{op} {case.name}, {name}: {found}; {case.tolerance.reason}"


@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("op", BUILDERS)
def test_a_row_of_a_batch_is_bit_equal_to_the_row_alone(name: str, op: str) -> None:
    if (name, op) in ROW_EXCEPTIONS:
        pytest.skip(ROW_EXCEPTIONS[name, op])
    ops = build_ops(name)
    for case in cases(op):
        together = run(case, ops)
        for row in range(len(case.tokens[0])):
            alone = run(case, ops, rows=slice(row, row + 1))
            for many, one in zip(together, alone, strict=True):
                assert np.array_equal(many[row : row + 1], one), f"{op} {case.name}, row {row}"


@pytest.mark.parametrize("case", ATTENTION_CASES, ids=str)
def test_attention_agrees_with_the_reference(native: Ops, case: AttentionCase) -> None:
    expected = attend(case, ReferenceOps(), max(case.lengths))
    for arrange in LAYOUTS.values():
        found = error((attend(case, native, max(case.lengths), arrange),), (expected,))
        assert found <= SOFTMAX.relative, SOFTMAX.reason


@pytest.mark.parametrize("kv_dtype", ["f32", "bf16"])
@pytest.mark.parametrize("case", ATTENTION_CASES, ids=str)
@pytest.mark.parametrize("name", NATIVE)
def test_attention_does_not_depend_on_how_tokens_are_cut_into_steps(
    name: str, case: AttentionCase, kv_dtype: str
) -> None:
    ops = build_ops(name, kv_dtype)
    whole = attend(case, ops, max(case.lengths))
    for step in (1, 5, 32):
        if max(case.lengths) > 500 and step == 1:
            continue
        assert np.array_equal(attend(case, ops, step), whole), f"steps of {step}"


def test_a_bf16_cache_keeps_what_fits_it_exactly(native: Ops) -> None:
    case = ATTENTION_CASES[1]
    half = build_ops(f"cpu-{native.isa}", "bf16")  # type: ignore[attr-defined]
    assert np.array_equal(attend(case, native, 40), attend(case, half, 40))


def test_cases_are_the_same_every_time() -> None:
    first: list[Case] = list(cases("experts"))
    for case, again in zip(first, cases("experts"), strict=True):
        assert case.name == again.name
        assert all(np.array_equal(a, b) for a, b in zip(case.tokens, again.tokens, strict=True))
