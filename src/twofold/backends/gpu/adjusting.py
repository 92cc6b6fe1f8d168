"""Logits after bias, penalties, banned and allowed ids, on the device; ops.sampling.adjust defines the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twofold.ops.types import RowSampling

Numbers = npt.NDArray[np.float64]
FIELDS = 6
"""Row, id, bias, penalty, what is taken away, whether it is banned."""


def adjust(logits_RV: Tensor, rows: Sequence[RowSampling]) -> Tensor:
    """The logits themselves where no row asks for anything, else a copy. Whatever is needed goes there in one piece."""
    found = [changes(index, row) for index, row in enumerate(rows) if is_changed(row)]
    masked = [index for index, row in enumerate(rows) if row.allowed is not None]
    if not found and not masked:
        return logits_RV
    result_RV = logits_RV.clone()
    if found:
        change(result_RV, np.concatenate(found, axis=1))
    if masked:
        forbid(result_RV, masked, [row.allowed or b"" for row in rows if row.allowed is not None])
    return result_RV


def is_changed(row: RowSampling) -> bool:
    """Whether single ids have other logits than the network gave."""
    return bool(
        row.logit_bias
        or row.banned
        or row.repetition_penalty != 1.0
        or row.presence_penalty != 0.0
        or row.frequency_penalty != 0.0
    )


def changes(index: int, row: RowSampling) -> Numbers:
    """[FIELDS, ids]: every id of a row that anything happens to, once."""
    biased = np.array([token for token, _ in row.logit_bias], np.int64)
    seen = np.array([*row.prompt, *row.generated] if row.repetition_penalty != 1.0 else (), np.int64)
    counted = np.array(row.generated if row.presence_penalty or row.frequency_penalty else (), np.int64)
    counted, times = np.unique(counted, return_counts=True)
    banned = np.array(row.banned, np.int64)
    ids = np.unique(np.concatenate([biased, seen, counted, banned]))
    result = np.zeros((FIELDS, len(ids)), np.float64)
    result[0], result[1], result[3] = index, ids, 1.0
    bias = np.zeros(len(ids), np.float32)
    np.add.at(bias, np.searchsorted(ids, biased), np.array([value for _, value in row.logit_bias], np.float32))
    result[2] = bias
    result[3, np.searchsorted(ids, np.unique(seen))] = np.float32(row.repetition_penalty)
    less = np.float32(row.presence_penalty) + np.float32(row.frequency_penalty) * times
    result[4, np.searchsorted(ids, counted)] = less
    result[5, np.searchsorted(ids, np.unique(banned))] = 1.0
    return result


def change(logits_RV: Tensor, given: Numbers) -> None:
    """Bias, then the repetition penalty, then what presence and frequency take away, then what is banned."""
    fields = torch.from_numpy(given).to(logits_RV.device)
    places = (fields[0].long(), fields[1].long())
    values = logits_RV[places] + fields[2].float()
    penalties = fields[3].float()
    values = torch.where(values > 0, values / penalties, values * penalties)
    values = (values.double() - fields[4]).float()
    logits_RV[places] = values.masked_fill(fields[5] > 0, -torch.inf)


def forbid(logits_RV: Tensor, rows: list[int], masks: list[bytes]) -> None:
    """Take away what the masks of these rows do not allow: bit t % 8 of byte t // 8 is id t, ids beyond are none."""
    vocabulary = logits_RV.shape[1]
    size = -(-vocabulary // 8)
    joined = b"".join(mask[:size].ljust(size, b"\0") for mask in masks)
    bytes_QB = torch.from_numpy(np.frombuffer(joined, np.uint8).copy()).to(logits_RV.device).reshape(len(rows), size)
    places: Any = torch.tensor(rows, device=logits_RV.device)
    shifts = torch.arange(8, device=logits_RV.device, dtype=torch.uint8)
    allowed_QV = ((bytes_QB[:, :, None] >> shifts) & 1).flatten(1)[:, :vocabulary]
    logits_RV[places] = logits_RV[places].masked_fill(allowed_QV == 0, -torch.inf)
