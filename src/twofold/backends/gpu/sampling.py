"""Drawing tokens from logits on a device; ops.sampling defines the results.

Every row is drawn where its logits are, and what is drawn comes to the host in one transfer. Uniform numbers are those
of the host; sums of weights may differ by their rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from twofold.backends.gpu import drawing
from twofold.backends.gpu.adjusting import adjust
from twofold.ops import sampling
from twofold.ops.types import Drawn, RowSampling

WITHOUT_FLOAT64 = ("mps",)
"""Devices whose rows are drawn on the host."""
SHARED = 4
"""Token, best logit after and before adjustments, whether the token is known: what every row brings to the host."""


def sample(logits_RV: Tensor, rows: Sequence[RowSampling]) -> list[Drawn]:
    """One token per row; see ops.sampling.draw for what it raises."""
    if not rows or logits_RV.device.type in WITHOUT_FLOAT64:
        return sampling.sample(logits_RV.float().cpu().numpy(), rows)
    logits_RV = logits_RV.float()
    adjusted_RV = adjust(logits_RV, rows)
    best_R, tokens_R = adjusted_RV.max(dim=1)
    largest_R = best_R if adjusted_RV is logits_RV else logits_RV.amax(dim=1)
    is_known_R = torch.ones_like(tokens_R, dtype=torch.bool)
    if any(is_drawn(row) for row in rows):
        tokens_R, is_known_R = draw(adjusted_RV, best_R, tokens_R, rows)
    shared_RF = torch.stack([tokens_R.double(), best_R.double(), largest_R.double(), is_known_R.double()], dim=1)
    told = [index for index, row in enumerate(rows) if row.logprobs >= 0 or row.token is not None]
    if not told:
        return [
            drawn_of(logits_RV[index], row, shared, None)
            for index, (row, shared) in enumerate(zip(rows, shared_RF.tolist(), strict=True))
        ]
    return with_logprobs(logits_RV, rows, told, shared_RF)


def is_drawn(row: RowSampling) -> bool:
    """Whether a row's token is left to chance."""
    return row.token is None and row.temperature != 0


def is_cut(row: RowSampling, vocabulary: int) -> bool:
    """Whether only some ids may be drawn."""
    return row.top_p < 1.0 or row.min_p > 0.0 or 0 < row.top_k < vocabulary


def draw(logits_RV: Tensor, best_R: Tensor, tokens_R: Tensor, rows: Sequence[RowSampling]) -> tuple[Tensor, Tensor]:
    """Tokens of all rows, the best ones where nothing is drawn, and whether they are known."""
    vocabulary = logits_RV.shape[1]
    settings_RF = torch.from_numpy(settings_of(rows, vocabulary)).to(logits_RV.device)
    scales_R, uniforms_R, is_plain_R = settings_RF[:, 0].float(), settings_RF[:, 1], settings_RF[:, 5] > 0
    sums_RS = drawing.stretch_sums(logits_RV, best_R, scales_R)
    drawn_R = drawing.invert(logits_RV, best_R, scales_R, sums_RS, uniforms_R)
    tokens_R = torch.where(is_plain_R, drawn_R, tokens_R)
    is_known_R = torch.ones_like(is_plain_R)
    cut = [index for index, row in enumerate(rows) if is_drawn(row) and is_cut(row, vocabulary)]
    if cut:
        places = slice(None) if len(cut) == len(rows) else torch.tensor(cut, device=logits_RV.device)
        most = candidates_of([rows[index] for index in cut], vocabulary)
        tokens_R[places], is_known_R[places] = drawing.draw_cut(
            logits_RV[places], best_R[places], sums_RS[places], settings_RF[places], most
        )
    return tokens_R, is_known_R


def settings_of(rows: Sequence[RowSampling], vocabulary: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Scale, uniform number, top_k, top_p and min_p of every row, and whether all of its ids may be drawn."""
    result = np.zeros((len(rows), 6), np.float64)
    for index, row in enumerate(rows):
        scale = max(np.float32(row.temperature), sampling.LEAST_TEMPERATURE) if is_drawn(row) else np.float32(1)
        top_k = row.top_k if 0 < row.top_k < vocabulary else 0
        is_plain = is_drawn(row) and not is_cut(row, vocabulary)
        result[index] = scale, uniform_of(row), top_k, row.top_p, row.min_p, is_plain
    return result


def uniform_of(row: RowSampling) -> float:
    """The number that decides what is drawn, as on the host."""
    return float(np.random.Generator(np.random.Philox(key=row.seed, counter=row.step)).random())


def candidates_of(rows: Sequence[RowSampling], vocabulary: int) -> int:
    """How many of the best ids of rows that are cut are looked at: a power of two."""
    wanted = max(row.top_k if 0 < row.top_k < vocabulary else drawing.CANDIDATES for row in rows)
    return min(1 << (wanted - 1).bit_length(), vocabulary)


def with_logprobs(logits_RV: Tensor, rows: Sequence[RowSampling], told: list[int], shared_RF: Tensor) -> list[Drawn]:
    """What all rows drew, and what the `told` ones want to know of it, in one transfer."""
    places = torch.tensor(told, device=logits_RV.device)
    known = torch.tensor([-1 if (token := rows[index].token) is None else token for index in told]).to(places.device)
    tokens_Q = torch.where(known < 0, shared_RF[places, 0].long(), known)
    count = min(max(0, *(rows[index].logprobs for index in told)), logits_RV.shape[1])
    told_QF = drawing.tell(logits_RV[places], tokens_Q, count)
    flat = torch.cat([shared_RF.flatten(), told_QF.flatten()]).tolist()
    shared = [flat[start : start + SHARED] for start in range(0, SHARED * len(rows), SHARED)]
    width = told_QF.shape[1]
    starts = range(SHARED * len(rows), len(flat), width)
    facts = {index: flat[start : start + width] for index, start in zip(told, starts, strict=True)}
    return [drawn_of(logits_RV[index], row, shared[index], facts.get(index)) for index, row in enumerate(rows)]


def drawn_of(logits_V: Tensor, row: RowSampling, shared: list[float], facts: list[float] | None) -> Drawn:
    """The result of a row, or what is wrong with it. A row that the device could not decide on is drawn here."""
    token, best, largest, is_known = shared
    if row.token is not None:
        sampling.check_finite(largest)
    else:
        sampling.check_drawable(best, largest)
    if not is_known:
        return sampling.draw(logits_V.cpu().numpy(), row)
    if facts is None:
        return Drawn(token=int(token))
    count = (len(facts) - 2) // 2
    pairs = list(zip(facts[2 : 2 + count], facts[2 + count :], strict=True))[: max(row.logprobs, 0)]
    return Drawn(
        token=int(token) if row.token is None else row.token,
        logprob=facts[0],
        alternatives=tuple((int(index), logprob) for index, logprob in pairs),
        rank=None if row.token is None else int(facts[1]),
    )
