"""GPTQ lowers the error of products, keeps to its grid, and says so when calibration is of no use."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.errors import QuantisationError
from twofold.ops.codes import Codes
from twofold.quant.calibrate import Inputs
from twofold.quant.gptq import LEAST_DAMPING, factorise, importance_order
from twofold.quant.quantise import quantise

RANDOM = np.random.default_rng(1)


def correlated_inputs(columns: int, tokens: int = 2000) -> np.ndarray:
    mixing = RANDOM.standard_normal((columns // 4, columns))
    x_TD = RANDOM.standard_normal((tokens, columns // 4)) @ mixing + 0.1 * RANDOM.standard_normal((tokens, columns))
    return (x_TD * np.exp(RANDOM.standard_normal(columns))).astype(np.float32)


def inputs_of(x_TD: np.ndarray) -> Inputs:
    return Inputs((x_TD.T @ x_TD).astype(np.float64) / len(x_TD), len(x_TD))


@pytest.mark.parametrize("form", ["int4", "int8"])
@pytest.mark.parametrize("columns", [96, 75])
def test_products_with_unseen_inputs_are_closer_than_after_rounding(form: str, columns: int) -> None:
    x_TD = correlated_inputs(columns, 4000)
    w_ND = RANDOM.standard_normal((40, columns)).astype(np.float32)
    plain, _ = quantise(w_ND, form, None, "w")
    found, record = quantise(w_ND, form, inputs_of(x_TD[:2000]), "w")

    def lost(values_ND: np.ndarray) -> float:
        return float(np.square(x_TD[2000:] @ (w_ND - values_ND).T).sum())

    assert lost(found.values()) < 0.6 * lost(plain.values())
    assert record.method == "gptq"
    assert record.tokens == 2000
    assert record.damping == LEAST_DAMPING
    assert record.output_error is not None
    assert record.output_error == pytest.approx(
        float(np.square(x_TD[:2000] @ (w_ND - found.values()).T).sum() / np.square(x_TD[:2000] @ w_ND.T).sum()),
        rel=0.02,
    )


def test_both_halves_of_a_refined_weight_are_compensated() -> None:
    x_TD = correlated_inputs(96)
    w_ND = RANDOM.standard_normal((40, 96)).astype(np.float32)
    found, record = quantise(w_ND, "refined", inputs_of(x_TD), "w")
    coarse = Codes(found.q_ND, found.m_NG, found.s_N)
    lost, coarsely = (np.square(x_TD @ (w_ND - codes.values()).T).sum() for codes in (found, coarse))
    assert lost < 0.1 * coarsely
    assert record.format == "refined"
    assert record.output_error == pytest.approx(float(lost / np.square(x_TD @ w_ND.T).sum()), rel=0.05)


def test_uncorrelated_inputs_leave_nothing_to_compensate() -> None:
    """With H the identity GPTQ is plain rounding."""
    w_ND = RANDOM.standard_normal((20, 64)).astype(np.float32)
    plain, _ = quantise(w_ND, "int8", None, "w")
    found, _ = quantise(w_ND, "int8", Inputs(np.eye(64), 64), "w")
    np.testing.assert_array_equal(found.q_ND, plain.q_ND)


def test_columns_that_were_never_used_do_no_harm() -> None:
    x_TD = correlated_inputs(64)
    x_TD[:, 5] = 0
    codes, _ = quantise(RANDOM.standard_normal((20, 64)).astype(np.float32), "int4", inputs_of(x_TD), "w")
    assert np.isfinite(codes.values()).all()


def test_groups_stay_whole_in_the_order_of_importance() -> None:
    order_D = importance_order(np.array([1.0] * 32 + [5.0] * 31 + [9.0] + [3.0] * 10))
    assert order_D[0] == 63
    assert sorted(order_D[:32]) == list(range(32, 64))
    assert sorted(order_D[32:42]) == list(range(64, 74))
    assert sorted(order_D) == list(range(74))


def test_useless_inputs_are_an_error_and_not_a_worse_method() -> None:
    with pytest.raises(QuantisationError, match="overflowed"):
        factorise(np.full((4, 4), np.inf), "w")
    with pytest.raises(QuantisationError, match="even with damping"):
        factorise(np.array([[1.0, 9.0], [9.0, 1.0]]), "w")


def test_damping_grows_only_as_far_as_needed() -> None:
    barely = np.array([[1.0, 1.05], [1.05, 1.0]])  # smallest eigenvalue -0.05
    assert factorise(barely, "w").damping == pytest.approx(0.1)
