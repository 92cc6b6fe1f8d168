"""Ids drawn from softmax(logits / temperature) on a device; ops.sampling.draw_index and tell define the results.

Of a vocabulary only the sums of stretches of 1024 weights are kept; of rows that are cut by top_k, top_p or min_p only
the best candidates are put in order. Running sums are float64, as they are on the host. kernels.draw and
kernels.candidates do the same in a few passes where there are kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from twofold.ops.sampling import STRETCH

CANDIDATES = 1024
"""The best of a row that is cut; a row that would keep more is looked at once more, with all of its ids."""
ROWS_AT_ONCE = 32
"""Rows that are put in order together: keys of 8 bytes take twice the memory of their logits."""
LOWEST = 2**32 - 1


@dataclass(frozen=True)
class Best:
    """The best ids of rows, best first, int64 [C, M]; how many of them count; how many ids there are at all."""

    ids_CM: Tensor
    found_C: Tensor
    total_C: Tensor


def weigh(logits: Tensor, largest: Tensor, scales: Tensor) -> Tensor:
    """Weights relative to the largest logit's, float32; largest and scales have an axis of 1 for the ids."""
    return torch.exp(logits / scales - largest / scales)


def stretch_sums(logits_RV: Tensor, largest_R: Tensor, scales_R: Tensor) -> Tensor:
    """Sums of the weights of every stretch of ids, float64 [R, stretches]."""
    weights_RV = weigh(logits_RV, largest_R[:, None], scales_R[:, None])
    whole = weights_RV.shape[1] // STRETCH * STRETCH
    sums = weights_RV[:, :whole].reshape(len(weights_RV), -1, STRETCH).sum(dim=-1, dtype=torch.float64)
    if whole == weights_RV.shape[1]:
        return sums
    return torch.cat([sums, weights_RV[:, whole:].sum(dim=1, dtype=torch.float64, keepdim=True)], dim=1)


def invert(logits_RV: Tensor, largest_R: Tensor, scales_R: Tensor, sums_RS: Tensor, uniforms_R: Tensor) -> Tensor:
    """The first id of every row at which the running sum of weights exceeds uniform * sum, int64."""
    vocabulary = logits_RV.shape[1]
    ends_RS = sums_RS.cumsum(dim=1)
    targets_R1 = uniforms_R[:, None] * ends_RS[:, -1:]
    stretch_R1 = (ends_RS <= targets_R1).sum(dim=1, keepdim=True).clamp(max=ends_RS.shape[1] - 1)
    before_R1 = (ends_RS - sums_RS).gather(1, stretch_R1)
    ids_RC = stretch_R1 * STRETCH + torch.arange(STRETCH, device=logits_RV.device)
    is_id_RC = ids_RC < vocabulary
    some_RC = logits_RV.gather(1, ids_RC.clamp(max=vocabulary - 1))
    weights_RC = weigh(some_RC, largest_R[:, None], scales_R[:, None]).masked_fill(~is_id_RC, 0.0)
    passed_RC = (weights_RC.double().cumsum(dim=1) + before_R1 <= targets_R1) & is_id_RC
    return torch.minimum(
        stretch_R1[:, 0] * STRETCH + passed_RC.sum(dim=1), is_id_RC.sum(dim=1) - 1 + stretch_R1[:, 0] * STRETCH
    )


def best_ids(values_RV: Tensor, count: int) -> Tensor:
    """The ids of the `count` largest values of every row, best first, lower id on ties: int64 [R, count].

    The bits of a float32 count as its size does, upside down below zero; behind them a key has the id.
    """
    rows, vocabulary = values_RV.shape
    if count == vocabulary:
        parts = [values_RV[start : start + ROWS_AT_ONCE] for start in range(0, rows, ROWS_AT_ONCE)]
        return torch.cat([part.sort(dim=1, descending=True, stable=True).indices for part in parts])
    ids_V = torch.arange(vocabulary, device=values_RV.device)
    found = []
    for start in range(0, rows, ROWS_AT_ONCE):
        bits_RV = (values_RV[start : start + ROWS_AT_ONCE] + 0.0).view(torch.int32)  # -0 becomes 0
        bits_RV = torch.where(bits_RV < 0, bits_RV ^ 0x7FFFFFFF, bits_RV)
        keys_RV = (bits_RV.long() << 32) | (LOWEST - ids_V)
        found.append(LOWEST - (keys_RV.topk(count, dim=1).values & LOWEST))
    return torch.cat(found)


def best_of(values_RV: Tensor, count: int) -> Best:
    """The `count` best ids of every row, found by ordering keys."""
    counts_R = torch.full((len(values_RV),), count, device=values_RV.device)
    return Best(best_ids(values_RV, count), counts_R, torch.full_like(counts_R, values_RV.shape[1]))


def draw_cut(
    logits_CV: Tensor, largest_C: Tensor, sums_CS: Tensor, settings_CF: Tensor, best: Best
) -> tuple[Tensor, Tensor]:
    """Ids drawn from rows that are cut, int64, and whether the best ids were enough to know them.

    settings: scale, uniform, top_k (0: none), top_p, min_p, float64.
    """
    scales_C1, uniforms_C1, top_k_C1, top_p_C1, min_p_C1 = (settings_CF[:, i : i + 1] for i in range(5))
    found_C1, total_C1 = best.found_C[:, None], best.total_C[:, None]
    is_few_C1 = top_k_C1 > 0
    places_M = torch.arange(best.ids_CM.shape[1], device=logits_CV.device)
    is_candidate_CM = (places_M < found_C1) & ((places_M < top_k_C1) | ~is_few_C1)
    ids_CM = torch.where(is_candidate_CM, best.ids_CM, 0)
    weights_CM = weigh(logits_CV.gather(1, ids_CM), largest_C[:, None], scales_C1.float())
    weights_CM = weights_CM.masked_fill(~is_candidate_CM, 0.0)
    before_CM = weights_CM.double().cumsum(dim=1) - weights_CM
    totals_C1 = torch.where(is_few_C1, weights_CM.sum(dim=1, dtype=torch.float64, keepdim=True), sums_CS.sum(1, True))
    stays_CM = is_candidate_CM & (weights_CM >= min_p_C1.float())
    stays_CM &= (before_CM < top_p_C1 * totals_C1) | (top_p_C1 >= 1.0)
    kept_C1 = stays_CM.sum(dim=1, keepdim=True)
    sums_CM = weights_CM.double().masked_fill(~stays_CM, 0.0).cumsum(dim=1)
    passed_C1 = ((sums_CM <= uniforms_C1 * sums_CM[:, -1:]) & stays_CM).sum(dim=1, keepdim=True)
    chosen_C1 = torch.minimum(passed_C1, kept_C1 - 1).clamp(min=0)
    has_all_C1 = found_C1 >= torch.where(is_few_C1, torch.minimum(top_k_C1, total_C1.double()), total_C1.double())
    is_known_C1 = (has_all_C1 | ((kept_C1 < found_C1) & ~is_few_C1)) & (found_C1 > 0)
    return ids_CM.gather(1, chosen_C1)[:, 0], is_known_C1[:, 0]


def tell(logits_QV: Tensor, tokens_Q: Tensor, count: int) -> Tensor:
    """What rows that want log-probabilities are told, float64 [Q, 2 + 2 * count].

    The log-probability and the rank of the token; the best ids; their log-probabilities.
    """
    largest_Q1 = logits_QV.amax(dim=1, keepdim=True)
    sums_Q1 = torch.exp(logits_QV - largest_Q1).sum(dim=1, dtype=torch.float64, keepdim=True)
    totals_Q1 = largest_Q1.double() + sums_Q1.log()
    own_Q1 = logits_QV.gather(1, tokens_Q[:, None])
    ranks_Q1 = 1 + (logits_QV > own_Q1).sum(dim=1, keepdim=True)
    ids_QC = best_ids(logits_QV, count) if count else tokens_Q[:, None][:, :0]
    logprobs_QC = logits_QV.gather(1, ids_QC).double() - totals_Q1
    return torch.cat([own_Q1.double() - totals_Q1, ranks_Q1.double(), ids_QC.double(), logprobs_QC], dim=1)
