"""Drawing tokens from logits on a device; ops.sampling defines the results.

Every row is drawn where its logits are, and what is drawn comes to the host in one transfer. Uniform numbers are those
of the host; sums of weights may differ by their rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twofold.backends.gpu import drawing
from twofold.backends.gpu.adjusting import adjust
from twofold.backends.gpu.devices import Fetched, send
from twofold.backends.gpu.kernels import candidates
from twofold.backends.gpu.kernels import cut as kernel_cut
from twofold.backends.gpu.kernels import draw as kernel
from twofold.backends.gpu.kernels.target import target
from twofold.ops import sampling
from twofold.ops.types import Drawn, RowSampling
from twofold.ops.uniforms import uniform

Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
WITHOUT_FLOAT64 = ("mps",)
"""Devices whose rows are drawn on the host."""


def sample(logits_RV: Tensor, rows: Sequence[RowSampling]) -> list[Drawn]:
    """One token per row; see ops.sampling.draw for what it raises."""
    if not rows or logits_RV.device.type in WITHOUT_FLOAT64:
        return sampling.sample(logits_RV.float().cpu().numpy(), rows)
    return Draws(logits_RV, rows).result()


class Draws:
    """One token per row, being drawn. tokens_R int64: on the device; is_final, after `result`: whether these are them.

    Rows that keep more ids than were put in order are rare, and worth a second look; `keeps_logits` when the logits may
    be overwritten before that.
    """

    def __init__(self, logits_RV: Tensor, rows: Sequence[RowSampling], keeps_logits: bool = False) -> None:
        logits_RV = logits_RV.float().contiguous()
        self._rows = rows
        self._attempt = attempt(logits_RV, rows, is_thorough=False)
        self._logits_RV = logits_RV.clone() if keeps_logits and self._attempt.may_fail else logits_RV
        self.tokens_R = self._attempt.tokens_R
        self.is_final = True

    def result(self) -> list[Drawn]:
        """Wait for them; see ops.sampling.draw for what it raises."""
        results, unknown = self._attempt.read()
        if unknown:
            self.is_final = False
            places = send(np.array(unknown), self._logits_RV.device)
            again, _ = attempt(self._logits_RV[places], [self._rows[index] for index in unknown], True).read()
            for index, drawn in zip(unknown, again, strict=True):
                results[index] = drawn
        return results


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What all rows draw, and for each part of it where it is in what is fetched: tokens, the best logits after and
    before adjustments, which rows are known; behind these `width` numbers for each of the `told` rows.
    """

    rows: Sequence[RowSampling]
    tokens_R: Tensor
    fetched: Fetched
    parts: int
    is_adjusted: bool
    may_fail: bool
    told: list[int]
    width: int

    def read(self) -> tuple[list[Drawn], list[int]]:
        """Tokens of all rows, and which of them are not known yet: none when all ids were put in order."""
        flat = self.fetched.numpy()
        shared = flat[: self.parts * len(self.rows)].reshape(self.parts, -1)
        check(self.rows, shared[1], shared[2] if self.is_adjusted else shared[1])
        results = [Drawn(token=token) for token in shared[0].astype(np.int64).tolist()]
        facts = flat[shared.size :].reshape(len(self.told), self.width).tolist()
        for index, own in zip(self.told, facts, strict=True):
            results[index] = with_logprobs(self.rows[index], results[index].token, own)
        return results, np.flatnonzero(shared[-1] == 0).tolist() if self.may_fail else []


def attempt(logits_RV: Tensor, rows: Sequence[RowSampling], is_thorough: bool) -> Attempt:
    """Begin to draw; when all ids are put in order (`is_thorough`) every row will be known."""
    adjusted_RV = adjust(logits_RV, rows)
    best_R, tokens_R = adjusted_RV.max(dim=1)
    is_known_R: Tensor | None = None
    if any(is_drawn(row) for row in rows):
        tokens_R, is_known_R = draw(adjusted_RV, best_R, tokens_R, rows, is_thorough)
    parts = [tokens_R.double(), best_R.double()]  # few and small: each part is a launch or two in every step
    if adjusted_RV is not logits_RV:
        parts.append(logits_RV.amax(dim=1).double())
    if is_known_R is not None:
        parts.append(is_known_R.double())
    shared_FR = torch.stack(parts)
    told = [index for index, row in enumerate(rows) if row.logprobs >= 0 or row.token is not None]
    flat, width = tell(logits_RV, rows, told, shared_FR) if told else (shared_FR.flatten(), 0)
    return Attempt(
        rows=rows,
        tokens_R=tokens_R,
        fetched=Fetched(flat),
        parts=len(parts),
        is_adjusted=adjusted_RV is not logits_RV,
        may_fail=is_known_R is not None,
        told=told,
        width=width,
    )


def is_drawn(row: RowSampling) -> bool:
    """Whether a row's token is left to chance."""
    return row.token is None and row.temperature != 0


def is_cut(row: RowSampling, vocabulary: int) -> bool:
    """Whether only some ids may be drawn."""
    return row.top_p < 1.0 or row.min_p > 0.0 or 0 < row.top_k < vocabulary


def has_kernels(logits_RV: Tensor) -> bool:
    """Whether kernels draw from logits there."""
    return logits_RV.is_cuda and target() != "plain"


def draw(
    logits_RV: Tensor, best_R: Tensor, tokens_R: Tensor, rows: Sequence[RowSampling], is_thorough: bool
) -> tuple[Tensor, Tensor | None]:
    """Tokens of all rows, the best ones where nothing is drawn, and whether they are known; None where all are."""
    vocabulary = logits_RV.shape[1]
    settings = settings_of(rows, vocabulary)
    settings_RF = send(settings, logits_RV.device)
    if has_kernels(logits_RV):
        sums_RS = kernel.draw(logits_RV, best_R, settings_RF, tokens_R)
    else:
        scales_R, uniforms_R = settings_RF[:, 0].float(), settings_RF[:, 1]
        sums_RS = drawing.stretch_sums(logits_RV, best_R, scales_R)
        drawn_R = drawing.invert(logits_RV, best_R, scales_R, sums_RS, uniforms_R)
        tokens_R = torch.where(settings_RF[:, 5] > 0, drawn_R, tokens_R)
    cut = [index for index, row in enumerate(rows) if is_drawn(row) and is_cut(row, vocabulary)]
    if not cut:
        return tokens_R, None
    wanted_C = wanted_of(settings[cut, 2], vocabulary)
    if len(cut) == len(rows):
        return draw_cut(logits_RV, best_R, sums_RS, settings_RF, wanted_C, is_thorough)
    places = send(np.array(cut), logits_RV.device)
    some = (logits_RV[places], best_R[places], sums_RS[places], settings_RF[places])
    is_known_R = torch.ones_like(tokens_R, dtype=torch.bool)
    tokens_R[places], is_known_R[places] = draw_cut(*some, wanted_C, is_thorough)
    return tokens_R, is_known_R


def draw_cut(
    logits_CV: Tensor, best_C: Tensor, sums_CS: Tensor, settings_CF: Tensor, wanted_C: Indices, is_thorough: bool
) -> tuple[Tensor, Tensor]:
    """Tokens of rows that are cut, of which so many ids are put in order, or all; and whether they are known."""
    vocabulary, most = logits_CV.shape[1], int(wanted_C.max())
    if has_kernels(logits_CV) and most < candidates.ROOM and not is_thorough:
        found = candidates.best_keys(logits_CV, best_C, send(wanted_C, logits_CV.device))
        return kernel_cut.draw(logits_CV, best_C, settings_CF, sums_CS, found)
    count = vocabulary if is_thorough else min(1 << (most - 1).bit_length(), vocabulary)
    return drawing.draw_cut(logits_CV, best_C, sums_CS, settings_CF, drawing.best_of(logits_CV, count))


def settings_of(rows: Sequence[RowSampling], vocabulary: int) -> Numbers:
    """Scale, uniform number, top_k, top_p and min_p of every row, and whether all of its ids may be drawn."""
    result = np.empty((len(rows), kernel.FIELDS), np.float64)
    temperatures = np.array([row.temperature if is_drawn(row) else 1.0 for row in rows]).astype(np.float32)
    result[:, 0] = np.maximum(temperatures, sampling.LEAST_TEMPERATURE)
    result[:, 1] = [uniform(row.seed, row.step) for row in rows]
    result[:, 2] = [row.top_k if 0 < row.top_k < vocabulary else 0 for row in rows]
    result[:, 3] = [row.top_p for row in rows]
    result[:, 4] = [row.min_p for row in rows]
    result[:, 5] = [is_drawn(row) and not is_cut(row, vocabulary) for row in rows]
    return result


def wanted_of(top_k_C: Numbers, vocabulary: int) -> Indices:
    """How many of the best ids of each row are put in order: as many as top_k says, or a fixed number."""
    wanted_C: Indices = np.where(top_k_C > 0, top_k_C, drawing.CANDIDATES).astype(np.int64)
    return np.minimum(wanted_C, vocabulary)


def tell(logits_RV: Tensor, rows: Sequence[RowSampling], told: list[int], shared_FR: Tensor) -> tuple[Tensor, int]:
    """What all rows share, and behind it what the `told` ones want to know, float64; how wide that is."""
    places = send(np.array(told), logits_RV.device)
    tokens = [-1 if (token := rows[index].token) is None else token for index in told]
    known = send(np.array(tokens), logits_RV.device)
    tokens_Q = torch.where(known < 0, shared_FR[0, places].long(), known)
    count = min(max(0, *(rows[index].logprobs for index in told)), logits_RV.shape[1])
    told_QF = drawing.tell(logits_RV[places], tokens_Q, count)
    return torch.cat([shared_FR.flatten(), told_QF.flatten()]), told_QF.shape[1]


def check(rows: Sequence[RowSampling], best_R: Numbers, largest_R: Numbers) -> None:
    """Raise what the first row that has nothing to draw from raises on the host."""
    for index in np.flatnonzero(~np.isfinite(best_R) | ~np.isfinite(largest_R)).tolist():
        if rows[index].token is not None:
            sampling.check_finite(float(largest_R[index]))
        else:
            sampling.check_drawable(float(best_R[index]), float(largest_R[index]))


def with_logprobs(row: RowSampling, token: int, facts: list[float]) -> Drawn:
    """A token with its log-probability, the alternatives asked for, and its rank if it was known before."""
    count = (len(facts) - 2) // 2
    pairs = list(zip(facts[2 : 2 + count], facts[2 + count :], strict=True))[: max(row.logprobs, 0)]
    return Drawn(
        token=token if row.token is None else row.token,
        logprob=facts[0],
        alternatives=tuple((int(index), logprob) for index, logprob in pairs),
        rank=None if row.token is None else int(facts[1]),
    )
