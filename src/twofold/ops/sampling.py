"""How a token is drawn from logits; every backend gives these results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from twofold.ops.types import Drawn, RowSampling

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def sample(logits_RV: Floats, rows: Sequence[RowSampling]) -> list[Drawn]:
    """Draw one token per row, each by its own settings and its own seed; rows never influence each other."""
    return [draw(logits_V, row) for logits_V, row in zip(logits_RV, rows, strict=True)]


def draw(logits_V: Floats, row: RowSampling) -> Drawn:
    """Draw the next token of one row; see RowSampling for the order of the steps."""
    adjusted_V = adjust(logits_V, row)
    if row.temperature == 0:
        token = int(adjusted_V.argmax())
    else:
        token = draw_index(adjusted_V / np.float32(row.temperature), row)
    if row.logprobs < 0:
        return Drawn(token=token)
    logprobs_V = log_softmax(logits_V)
    best = top_indices(logprobs_V, row.logprobs)
    alternatives = tuple((int(i), float(logprobs_V[i])) for i in best)
    return Drawn(token=token, logprob=float(logprobs_V[token]), alternatives=alternatives)


def adjust(logits_V: Floats, row: RowSampling) -> Floats:
    """Logits after logit_bias, banned ids and penalties; the input is left alone.

    repetition_penalty divides positive and multiplies negative logits of every id seen in prompt or answer;
    presence and frequency penalties look at the answer only, as in the OpenAI API.
    """
    repeats = row.repetition_penalty != 1.0
    counts = row.presence_penalty != 0.0 or row.frequency_penalty != 0.0
    if not (repeats or counts or row.logit_bias or row.banned):
        return logits_V
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
    return result_V


def draw_index(scaled_V: Floats, row: RowSampling) -> int:
    """Index drawn from softmax(scaled) cut by top_k, top_p and min_p, by inverting the sum of probabilities."""
    ids, probabilities = candidates(scaled_V, row)
    sums = np.cumsum(probabilities, dtype=np.float64)
    uniform = np.random.Generator(np.random.Philox(key=row.seed, counter=row.step)).random()
    chosen = int(np.searchsorted(sums, uniform * sums[-1], side="right"))
    return int(ids[min(chosen, len(ids) - 1)])


def candidates(scaled_V: Floats, row: RowSampling) -> tuple[npt.NDArray[np.int64], Doubles]:
    """Ids that survive the cuts, best first, with their unnormalised probabilities (the best one has 1)."""
    cut = row.top_k > 0 or row.top_p < 1.0 or row.min_p > 0.0
    limit = min(row.top_k or len(scaled_V), len(scaled_V))
    weights_V = np.exp((scaled_V - scaled_V.max()).astype(np.float64))
    if not cut:
        return np.arange(len(scaled_V)), weights_V
    ids = top_indices(scaled_V, first_candidates(weights_V, row, limit))
    weights = weights_V[ids]
    if row.top_p < 1.0:
        total = weights_V.sum() if limit == len(scaled_V) else weights.sum()
        before = np.cumsum(weights) - weights  # a token stays while the ones before it do not yet fill top_p
        keep = before < row.top_p * total
        ids, weights = ids[keep], weights[keep]
    keep = weights >= row.min_p
    return ids[keep], weights[keep]


def first_candidates(weights_V: Doubles, row: RowSampling, limit: int) -> int:
    """How many of the best ids need sorting: those too small to survive min_p or top_p are left out beforehand.

    Ids whose weights together hold less than 1 - top_p of the mass cannot be reached by top_p; a bound on the
    smallest useful weight finds them without a sort: mass (1 - top_p) * total spread evenly over V ids.
    """
    if limit < len(weights_V):
        return limit
    floor = max(row.min_p, (1.0 - row.top_p) * float(weights_V.sum()) / len(weights_V))
    return max(1, int((weights_V >= floor).sum()))


def top_indices(values_V: Floats | Doubles, count: int) -> npt.NDArray[np.int64]:
    """Indices of the `count` largest values, best first, lower index on ties."""
    if count <= 0:
        return np.empty(0, np.int64)
    if count >= len(values_V):
        return np.argsort(-values_V, kind="stable")
    threshold = np.partition(values_V, len(values_V) - count)[len(values_V) - count]
    chosen = np.flatnonzero(values_V >= threshold)
    return chosen[np.argsort(-values_V[chosen], kind="stable")][:count]


def log_softmax(logits_V: Floats) -> Doubles:
    """Log-probabilities in float64."""
    shifted = logits_V.astype(np.float64) - float(logits_V.max())
    result: Doubles = shifted - np.log(np.exp(shifted).sum())
    return result
