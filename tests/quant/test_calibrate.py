"""Every weight's inputs are seen, every expert gets tokens, and rare ones are topped up knowingly."""

from __future__ import annotations

import numpy as np

from twofold.ops.packed import Dense
from twofold.ops.reference import ReferenceOps
from twofold.quant.calibrate import RARE_SHARE, Recorder, as_codes

RANDOM = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def test_inputs_of_a_dense_weight_add_up_over_calls() -> None:
    weight = Dense(normal(8, 16))
    recorder = Recorder(ReferenceOps(), {"w": weight})
    x_TD = normal(30, 16)
    found = [recorder.linear(part, weight) for part in (x_TD[:10], x_TD[10:])]
    np.testing.assert_allclose(np.concatenate(found), x_TD @ weight.values.T, rtol=1e-4, atol=1e-5)
    seen_TD = as_codes(x_TD)
    assert recorder.inputs("w").tokens == 30
    np.testing.assert_allclose(recorder.inputs("w").h_DD, seen_TD.T @ seen_TD / 30, rtol=1e-4, atol=1e-5)


def run_experts(recorder: Recorder, x_TD: np.ndarray, router: Dense, gate_up: Dense, down: Dense) -> np.ndarray:
    experts_TA, gates_TA = recorder.route(x_TD, router, 1)
    recorder.experts(x_TD, experts_TA, gates_TA, gate_up, down)
    return experts_TA[:, 0]


def test_each_expert_sees_its_own_gated_tokens() -> None:
    router, gate_up, down = Dense(normal(3, 8)), Dense(normal(3, 12, 8)), Dense(normal(3, 8, 6))
    recorder = Recorder(ReferenceOps(), {"gate_up": gate_up, "down": down})
    x_TD = normal(400, 8)
    chosen_T = run_experts(recorder, x_TD, router, gate_up, down)
    for expert in range(3):
        above, below = recorder.expert_inputs(expert, Dense(gate_up.values[expert]))
        assert above is not None
        assert below is not None
        assert above.tokens == below.tokens == (chosen_T == expert).sum()
        assert above.forced == 0
        mine_TD = x_TD[chosen_T == expert]
        gated_TD = as_codes(mine_TD / (1 + np.exp(-(mine_TD @ router.values[expert])))[:, None])
        np.testing.assert_allclose(above.h_DD, gated_TD.T @ gated_TD / len(gated_TD), rtol=1e-3, atol=1e-5)
        assert below.h_DD.shape == (6, 6)


def test_a_rare_expert_gets_the_tokens_that_nearly_chose_it() -> None:
    router, gate_up, down = Dense(normal(2, 40)), Dense(normal(2, 12, 40)), Dense(normal(2, 40, 6))
    x_TD = normal(50, 40)
    logits_TE = x_TD @ router.values.T
    x_TD = x_TD[logits_TE[:, 0] > logits_TE[:, 1]]  # expert 1 is never chosen
    recorder = Recorder(ReferenceOps(), {"gate_up": gate_up, "down": down})
    assert (run_experts(recorder, x_TD, router, gate_up, down) == 0).all()
    found, _ = recorder.expert_inputs(1, Dense(gate_up.values[1]))
    assert found is not None
    assert found.tokens == found.forced == int(40 * RARE_SHARE)
    nearest = np.argsort(-(x_TD @ router.values[1]))[: found.forced]
    gates = 1 / (1 + np.exp(-(x_TD[nearest] @ router.values[1])))
    gated_TD = as_codes(x_TD[nearest] * gates[:, None])
    np.testing.assert_allclose(found.h_DD, gated_TD.T @ gated_TD / found.tokens, rtol=1e-3, atol=1e-5)


def test_no_tokens_at_all_means_no_inputs() -> None:
    router, gate_up, down = Dense(normal(2, 8)), Dense(normal(2, 12, 8)), Dense(normal(2, 8, 6))
    recorder = Recorder(ReferenceOps(), {"gate_up": gate_up, "down": down})
    run_experts(recorder, np.zeros((0, 8), np.float32), router, gate_up, down)
    assert recorder.expert_inputs(0, Dense(gate_up.values[0])) == (None, None)
