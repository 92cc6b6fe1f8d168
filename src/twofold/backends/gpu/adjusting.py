"""Logits after bias, penalties, banned and allowed ids, on the device; ops.sampling.adjust defines the results.

Rows bring their ids as they are, as often as they come: they are counted on the device. A logit is read before any is
written, so an id that comes twice is changed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from twofold.backends.gpu.devices import send
from twofold.ops.sampling import is_adjusted
from twofold.ops.types import RowSampling

Pairs = list[tuple[int, Sequence[int]]]


def adjust(logits_RV: Tensor, rows: Sequence[RowSampling]) -> Tensor:
    """The logits themselves where no row asks for anything, else a copy."""
    if not any(is_adjusted(row) for row in rows):
        return logits_RV
    result_RV = logits_RV.clone()
    add_bias(result_RV, rows)
    penalise_repeats(result_RV, rows)
    penalise_counts(result_RV, rows)
    banned = places_of([(index, row.banned) for index, row in enumerate(rows) if row.banned], result_RV)
    if banned is not None:
        result_RV[banned] = -torch.inf
    masked = [index for index, row in enumerate(rows) if row.allowed is not None]
    if masked:
        forbid(result_RV, masked, [row.allowed for row in rows if row.allowed is not None])
    return result_RV


def places_of(pairs: Pairs, logits_RV: Tensor) -> tuple[Tensor, Tensor] | None:
    """Rows and ids of (row, ids) pairs on the device, int64 each; None where there are none. One transfer."""
    count = sum(len(ids) for _, ids in pairs)
    if not count:
        return None
    rows = np.repeat(np.array([row for row, _ in pairs]), [len(ids) for _, ids in pairs])
    both = np.stack([rows, np.fromiter(chain.from_iterable(ids for _, ids in pairs), np.int64, count)])
    placed = send(both, logits_RV.device)
    return placed[0], placed[1]


def settings_of(values: Sequence[float], logits_RV: Tensor) -> Tensor:
    """A number for every row, float32: penalties are rounded to it as on the host."""
    return send(np.array(values, np.float32), logits_RV.device)


def add_bias(logits_RV: Tensor, rows: Sequence[RowSampling]) -> None:
    """logit_bias."""
    found = places_of([(i, [token for token, _ in row.logit_bias]) for i, row in enumerate(rows)], logits_RV)
    if found is not None:
        bias = settings_of([value for row in rows for _, value in row.logit_bias], logits_RV)
        logits_RV.index_put_(found, bias, accumulate=True)


def penalise_repeats(logits_RV: Tensor, rows: Sequence[RowSampling]) -> None:
    """repetition_penalty, of prompts and answers."""
    pairs: Pairs = [(i, ids) for i, row in enumerate(rows) if row.repetition_penalty != 1.0
                    for ids in (row.prompt, row.generated)]  # fmt: skip
    found = places_of(pairs, logits_RV)
    if found is not None:
        penalties = settings_of([row.repetition_penalty for row in rows], logits_RV)[found[0]]
        values = logits_RV[found]
        logits_RV[found] = torch.where(values > 0, values / penalties, values * penalties)


def penalise_counts(logits_RV: Tensor, rows: Sequence[RowSampling]) -> None:
    """presence_penalty and frequency_penalty, of answers; what is taken away is float64, as on the host."""
    counted = [i for i, row in enumerate(rows) if row.presence_penalty != 0.0 or row.frequency_penalty != 0.0]
    found = places_of([(i, rows[i].generated) for i in counted], logits_RV)
    if found is None:
        return
    counts_RV = torch.zeros(logits_RV.shape, dtype=torch.float32, device=logits_RV.device)
    counts_RV.view(-1).scatter_add_(
        0, found[0] * logits_RV.shape[1] + found[1], torch.ones(len(found[0]), device=logits_RV.device)
    )
    presence = settings_of([row.presence_penalty for row in rows], logits_RV)[found[0]].double()
    frequency = settings_of([row.frequency_penalty for row in rows], logits_RV)[found[0]].double()
    logits_RV[found] = (logits_RV[found].double() - (presence + frequency * counts_RV[found].double())).float()


def forbid(logits_RV: Tensor, rows: list[int], masks: list[bytes]) -> None:
    """Take away what the masks of these rows do not allow: bit t % 8 of byte t // 8 is id t, ids beyond are none."""
    vocabulary = logits_RV.shape[1]
    size = -(-vocabulary // 8)
    joined = b"".join(mask[:size].ljust(size, b"\0") for mask in masks)
    bytes_QB = send(np.frombuffer(joined, np.uint8).copy(), logits_RV.device).reshape(len(rows), size)
    places = send(np.array(rows), logits_RV.device)
    shifts = torch.arange(8, device=logits_RV.device, dtype=torch.uint8)
    allowed_QV = ((bytes_QB[:, :, None] >> shifts) & 1).flatten(1)[:, :vocabulary]
    logits_RV[places] = logits_RV[places].masked_fill(allowed_QV == 0, -torch.inf)
