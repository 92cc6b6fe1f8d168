"""Watches one decoder layer run over calibration texts and keeps what its weights were multiplied by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from twofold.ops.activations import quantize_activations
from twofold.ops.interface import Ops
from twofold.ops.packed import Dense, Floats, Packed
from twofold.ops.types import Array

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RARE_SHARE = 0.25
"""An expert with fewer tokens than this share of its input columns gets more by forced routing."""


@dataclass
class Inputs:
    """Inputs of one matrix: h_DD = X X^T / tokens over all of them, `forced` of which were not routed there."""

    h_DD: Doubles
    tokens: int
    forced: int = 0


def as_codes(x_TD: Floats) -> Floats:
    """Activations as an integer product sees them."""
    return quantize_activations(np.ascontiguousarray(x_TD, np.float32)).values()


@dataclass
class ExpertTokens:
    """What one MoE layer's experts were given: inputs, chosen experts and gates, and the router's logits."""

    x: list[Floats] = field(default_factory=list)
    experts: list[Ints] = field(default_factory=list)
    gates: list[Floats] = field(default_factory=list)
    logits: list[Floats] = field(default_factory=list)


class Recorder:
    """Ops that keep the inputs of every linear weight of a layer; everything else goes straight to `ops`.

    `names` maps id(weight) to the weight's name. Inputs of dense weights are summed up as they come; those of experts
    are kept as they are, because each expert needs sums of its own, which are made one expert at a time.
    """

    def __init__(self, ops: Ops, weights: Mapping[str, Packed]) -> None:
        self._ops = ops
        self._names = {id(weight): name for name, weight in weights.items()}
        self._sums: dict[str, Doubles] = {}
        self._counts: dict[str, int] = {}
        self.experts_seen = ExpertTokens()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def linear(self, x_TD: Array, weight_ND: Packed) -> Array:
        """Multiply, and add the inputs to the weight's sums."""
        self.see(self._names[id(weight_ND)], x_TD)
        return self._ops.linear(x_TD, weight_ND)

    def logits(self, x_RD: Array, head_VD: Packed) -> None:
        """Add the inputs to the head's sums; nobody asks for logits here."""
        self.see(self._names[id(head_VD)], x_RD)

    def see(self, name: str, x_TD: Array) -> None:
        """Add inputs to the sums of a dense weight."""
        seen_TD = as_codes(x_TD)
        sums = (seen_TD.T @ seen_TD).astype(np.float64)
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums
        self._counts[name] = self._counts.get(name, 0) + len(x_TD)

    def route(self, x_TD: Array, router_ED: Dense, active: int) -> tuple[Array, Array]:
        """Route, and keep every expert's logit."""
        logits_TE = np.asarray(x_TD) @ router_ED.values.astype(np.float32).T
        self.experts_seen.logits.append(logits_TE)
        return self._ops.route(x_TD, router_ED, active)

    def experts(self, x_TD: Array, experts_TA: Array, gates_TA: Array, gate_up_END: Packed, down_EDF: Packed) -> Array:
        """Run the experts, and keep what they were given."""
        seen = self.experts_seen
        seen.x.append(np.array(x_TD, np.float32))
        seen.experts.append(np.array(experts_TA, np.int64))
        seen.gates.append(np.array(gates_TA, np.float32))
        return self._ops.experts(x_TD, experts_TA, gates_TA, gate_up_END, down_EDF)

    def inputs(self, name: str) -> Inputs:
        """Inputs of a dense weight."""
        count = self._counts[name]
        return Inputs(self._sums[name] / count, count)

    def expert_inputs(self, expert: int, gate_up_ND: Dense) -> tuple[Inputs | None, Inputs | None]:
        """Inputs of an expert's gate_up and down; None for an expert that not even forced routing can reach.

        Tokens routed to the expert come first; where they are rare, the tokens whose logit for it is highest follow,
        gated as they would have been.
        """
        x_TD, forced = self.tokens_of(expert, gate_up_ND.values.shape[-1])
        if not len(x_TD):
            return None, None
        hidden_TF = self._ops.swiglu(self._ops.linear(x_TD, gate_up_ND))
        return gram(x_TD, forced), gram(np.asarray(hidden_TF), forced)

    def tokens_of(self, expert: int, columns: int) -> tuple[Floats, int]:
        """Gated inputs of one expert, and how many of them were forced."""
        seen = self.experts_seen
        experts_TA, x_TD = np.concatenate(seen.experts), np.concatenate(seen.x)
        routed_TA = experts_TA == expert
        gates_T = (np.concatenate(seen.gates) * routed_TA).sum(axis=1)
        routed = np.flatnonzero(routed_TA.any(axis=1))
        missing = max(0, int(columns * RARE_SHARE) - len(routed))
        logits_T = np.concatenate(seen.logits)[:, expert].copy()
        logits_T[routed] = -np.inf
        others = np.argsort(-logits_T, kind="stable")[: min(missing, len(x_TD) - len(routed))]
        forced_gates = np.float32(1) / (np.float32(1) + np.exp(-logits_T[others]))
        rows = np.concatenate([routed, others])
        gates = np.concatenate([gates_T[routed], forced_gates]).astype(np.float32)
        return np.ascontiguousarray(x_TD[rows] * gates[:, None]), len(others)


def gram(x_TD: Floats, forced: int) -> Inputs:
    """Inputs kept whole, summed up."""
    seen_TD = as_codes(x_TD)
    return Inputs((seen_TD.T @ seen_TD).astype(np.float64) / len(x_TD), len(x_TD), forced)
