"""How a token is drawn from logits; every backend gives these results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from twofold.errors import BadLogits, InvalidSampling
from twofold.ops.types import Drawn, RowSampling
from twofold.ops.uniforms import uniform

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
STRETCH = 1024
DISTANCES = (2.0, 6.0, 18.0)
"""Logits this far below the best are looked at first when the best few are wanted."""
LIKELY = (0.02, 0.002, 0.0002)
"""Weights, relative to the best one's, from which up ids are taken for likely at first."""
ENOUGH = 1 + 1e-9
"""Sums in another order differ by less."""
LEAST_TEMPERATURE = np.float32(1e-30)
"""Below it float32 overflows or ends at 0. Here already only ids as likely as the best one have any weight."""


class Passes(Protocol):
    """The passes over a whole vocabulary; a backend may have faster ones, with other last bits of exponentials."""

    def weigh(self, logits_V: Floats, largest: float, temperature: float) -> tuple[Floats, Doubles]:
        """Probabilities relative to that of the largest logit, and the sum of each STRETCH of them.

        Both may be overwritten by the next call.
        """
        ...

    def reach(self, values_V: Floats, floor: float) -> Indices:
        """Indices of the values from the floor up, ascending."""
        ...


class Plain:
    """The passes in NumPy."""

    def weigh(self, logits_V: Floats, largest: float, temperature: float) -> tuple[Floats, Doubles]:
        """See Passes."""
        weights_V = weigh(logits_V, largest, temperature)
        return weights_V, stretch_sums(weights_V)

    def reach(self, values_V: Floats, floor: float) -> Indices:
        """See Passes."""
        return np.flatnonzero(values_V >= np.float32(floor))


PLAIN = Plain()


def sample(logits_RV: Floats, rows: Sequence[RowSampling], passes: Passes = PLAIN) -> list[Drawn]:
    """Draw one token per row, each by its own settings and its own seed; rows never influence each other."""
    return [draw(logits_V, row, passes) for logits_V, row in zip(logits_RV, rows, strict=True)]


def draw(logits_V: Floats, row: RowSampling, passes: Passes = PLAIN) -> Drawn:
    """Draw the next token of one row; see RowSampling for the order of the steps.

    Raises BadLogits when the best logit is no finite number, InvalidSampling when every token is banned.
    """
    if row.token is not None:
        check_finite(float(logits_V.max()))
        rank = 1 + int(np.count_nonzero(logits_V > logits_V[row.token]))
        return replace(tell(logits_V, row.token, row.logprobs, passes), rank=rank)
    adjusted_V = adjust(logits_V, row)
    token = int(adjusted_V.argmax())  # of NaN, if there is one
    best = float(adjusted_V[token])
    check_drawable(best, float(logits_V.max()) if best == -np.inf else best)
    if row.temperature != 0:
        token = draw_index(adjusted_V, best, row, passes)
    if row.logprobs < 0:
        return Drawn(token=token)
    return tell(logits_V, token, row.logprobs, passes)


def check_drawable(best: float, largest: float) -> None:
    """Raise InvalidSampling when all tokens are banned, BadLogits when the best logit is no finite number.

    best is that after all adjustments, largest the one before them.
    """
    if best == -math.inf and math.isfinite(largest):
        raise InvalidSampling(
            "no token may come next: what allowed_token_ids or a grammar leave is banned by min_tokens or bad_words"
        )
    check_finite(best)


def check_finite(best: float) -> None:
    """Raise BadLogits unless the best logit is a finite number."""
    if not math.isfinite(best):
        raise BadLogits(f"the best logit is {best}; a finite number was expected. The weights are damaged.")


def tell(logits_V: Floats, token: int, count: int, passes: Passes = PLAIN) -> Drawn:
    """A token with its log-probability and so many alternatives."""
    largest = float(logits_V.max())
    total = largest + math.log(float(passes.weigh(logits_V, largest, 1.0)[1].sum()))
    best = best_indices(logits_V, count, [largest - distance for distance in DISTANCES], passes)
    alternatives = tuple((int(index), float(logits_V[index]) - total) for index in best)
    return Drawn(token=token, logprob=float(logits_V[token]) - total, alternatives=alternatives)


def adjust(logits_V: Floats, row: RowSampling) -> Floats:
    """Logits after logit_bias, banned and allowed ids, and penalties; the input is left alone.

    repetition_penalty divides positive and multiplies negative logits of every id seen in prompt or answer;
    presence and frequency penalties look at the answer only, as in the OpenAI API.
    """
    if not is_adjusted(row):
        return logits_V
    repeats = row.repetition_penalty != 1.0
    counts = row.presence_penalty != 0.0 or row.frequency_penalty != 0.0
    result_V = logits_V.copy()
    for token, bias in row.logit_bias:
        result_V[token] += np.float32(bias)
    if repeats:
        seen = np.unique(np.array([*row.prompt, *row.generated], np.int64))
        penalty = np.float32(row.repetition_penalty)
        result_V[seen] = np.where(result_V[seen] > 0, result_V[seen] / penalty, result_V[seen] * penalty)
    if counts and len(row.generated):
        ids, times = np.unique(np.asarray(row.generated, np.int64), return_counts=True)
        result_V[ids] -= np.float32(row.presence_penalty) + np.float32(row.frequency_penalty) * times
    result_V[list(row.banned)] = -np.inf
    if row.allowed is not None:
        bits = np.unpackbits(np.frombuffer(row.allowed, np.uint8), count=len(result_V), bitorder="little")
        result_V[bits == 0] = -np.inf
    return result_V


def is_adjusted(row: RowSampling) -> bool:
    """Whether a row's logits are changed before anything is drawn from them."""
    penalised = row.repetition_penalty != 1.0 or row.presence_penalty != 0.0 or row.frequency_penalty != 0.0
    return penalised or bool(row.logit_bias) or bool(row.banned) or row.allowed is not None


def draw_index(logits_V: Floats, largest: float, row: RowSampling, passes: Passes = PLAIN) -> int:
    """Index drawn from softmax(logits / temperature) cut by top_k, top_p and min_p, by inverting the running sum."""
    number = uniform(row.seed, row.step)
    if row.top_p >= 1.0 and row.min_p <= 0.0 and (row.top_k == 0 or row.top_k >= len(logits_V)):
        return invert(*passes.weigh(logits_V, largest, row.temperature), number)
    ids, weights = candidates(logits_V, largest, row, passes)
    return int(ids[invert(weights, stretch_sums(weights), number)])


def weigh(logits: Floats, largest: float, temperature: float) -> Floats:
    """Probabilities at a temperature, relative to that of the largest logit."""
    scale = least_temperature(temperature)
    weights: Floats = logits / scale
    weights -= np.float32(largest) / scale
    return np.exp(weights, out=weights)


def least_temperature(temperature: float) -> np.float32:
    """The temperature, or the least one that float32 can divide by."""
    return max(np.float32(temperature), LEAST_TEMPERATURE)


def stretch_sums(weights: Floats) -> Doubles:
    """The sum of each STRETCH of weights, float64; the last one may be shorter."""
    whole = len(weights) // STRETCH * STRETCH
    sums_S: Doubles = weights[:whole].reshape(-1, STRETCH).sum(axis=1, dtype=np.float64)
    if whole < len(weights):
        sums_S = np.append(sums_S, weights[whole:].sum(dtype=np.float64))
    return sums_S


def invert(weights: Floats, sums_S: Doubles, uniform: float) -> int:
    """The first index at which the running sum of weights exceeds uniform * sum; running sums are float64.

    First the stretch is found, then the place in it: one pass over a vocabulary instead of several.
    """
    ends = np.cumsum(sums_S)
    target = uniform * float(ends[-1])
    stretch = min(int(np.searchsorted(ends, target, side="right")), len(ends) - 1)
    inside = weights[stretch * STRETCH : (stretch + 1) * STRETCH]
    sums = np.cumsum(inside, dtype=np.float64) + (ends[stretch] - sums_S[stretch])
    return stretch * STRETCH + min(int(np.searchsorted(sums, target, side="right")), len(inside) - 1)


def candidates(logits_V: Floats, largest: float, row: RowSampling, passes: Passes = PLAIN) -> tuple[Indices, Floats]:
    """Ids that survive the cuts, best first, and their weights: probabilities relative to the best id, which has 1."""
    if 0 < row.top_k < len(logits_V):  # a few exponentials are cheaper than those of a whole vocabulary
        ids = best_indices(logits_V, row.top_k, [largest - distance for distance in DISTANCES], passes)
        weights = weigh(logits_V[ids], largest, row.temperature)
        total = float(weights.sum(dtype=np.float64))
    else:
        weights_V, sums_S = passes.weigh(logits_V, largest, row.temperature)
        total = float(sums_S.sum())
        ids = reachable(weights_V, row, total, passes)
        weights = weights_V[ids]
    stays = weights >= row.min_p
    if row.top_p < 1.0:
        sums = np.cumsum(weights, dtype=np.float64)
        stays &= sums - weights < row.top_p * total  # a token stays while the ones before it do not yet fill top_p
    return ids[stays], weights[stays]


def reachable(weights_V: Floats, row: RowSampling, total: float, passes: Passes = PLAIN) -> Indices:
    """Ids that min_p or top_p might keep, best first; the hopeless ones are left out before anything is sorted.

    Once the likely ones fill top_p by themselves, all others are cut. If no guess at who is likely will do: ids that
    top_p cuts hold at most (1 - top_p) * total together. Spread evenly over all ids that is the floor below which an id
    can only be among them.
    """
    last = min(max(row.min_p, (1.0 - row.top_p) * total / len(weights_V)), 1.0)
    filled = ENOUGH * row.top_p * total
    for floor in [*(floor for floor in LIKELY if floor > last and row.top_p < 1.0), last]:
        ids = passes.reach(weights_V, floor)
        weights = weights_V[ids]
        if weights.sum(dtype=np.float64) >= filled:
            break
    return best_first(weights, ids)


def best_first(weights: Floats, ids: Indices) -> Indices:
    """`ids`, which ascend, by falling weights (none negative); the lower one first on ties.

    Such floats are ordered as their bits are, and NumPy sorts integers ten times as fast as it sorts indices by floats.
    """
    keys = (~weights.view(np.uint32)).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= ids.astype(np.uint64)
    keys.sort()
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def best_indices(values_V: Floats, count: int, floors: Sequence[float], passes: Passes = PLAIN) -> Indices:
    """Indices of the `count` largest values, best first, lower index on ties.

    Only values from the first floor up that enough of them reach are looked at, all of them when no floor will do; and
    of these only those that are no smaller than the last one wanted are sorted.
    """
    if count <= 0:
        return np.empty(0, np.int64)
    for floor in floors:
        near = passes.reach(values_V, floor)
        if len(near) >= count:
            break
    else:
        near = np.arange(len(values_V))
    values = values_V[near]
    if len(near) > count:
        stays = values >= np.partition(values, len(values) - count)[len(values) - count]
        near, values = near[stays], values[stays]
    return near[np.argsort(-values, kind="stable")][:count]
