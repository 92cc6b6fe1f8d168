"""The test int8 keys and values must pass before they are used without being asked for.

One set of weights reads a long text three times, side by side: with keys and values in float32, bfloat16 and int8. What
counts is how much more int8 costs than bfloat16 does: both move a network that rounds its activations or chooses
experts, and bfloat16 is what everyone uses. It is judged over all positions, and in each band of positions by itself,
because damage that only begins far into a context vanishes in the mean. docs/quantisation.md says why these limits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twofold.api import LLM
from twofold.bench.quality import ROWS_AT_ONCE
from twofold.errors import SettingsError
from twofold.ops.logprobs import divergence, log_softmax
from twofold.text.rows import Row, encode_rows

LONGEST = 16384
"""Tokens of a stretch, where the model's context allows: two chunks of Llama 4."""
MOST_TOKENS = 32768
FIRST_BAND = 512
"""Positions of the first band; each following one ends at twice the position."""
KL_LIMIT, BAND_LIMIT, AGREEMENT_LIMIT = 0.002, 0.004, 0.02
"""The most int8 may cost beyond bfloat16: nats over all positions, nats in any band, share of best tokens.

As much as the whole scheme w8a8 costs the demo model; a band has fewer tokens, and may be twice as far off.
"""

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class KvGate:
    """What int8 and bfloat16 keys and values cost beside float32 ones.

    tokens: how many were judged, in stretches of `longest`; int8_kl, int8_kl_p99, bf16_kl: KL(float32 || these) in
    nats; int8_agreement, bf16_agreement: how often both prefer the same token; worst_excess: int8_kl - bf16_kl in the
    worst band of positions; text: SHA-256 of the token ids.
    """

    tokens: int
    longest: int
    int8_kl: float
    int8_kl_p99: float
    int8_agreement: float
    bf16_kl: float
    bf16_agreement: float
    worst_excess: float
    text: str

    @property
    def passed(self) -> bool:
        """Whether int8 stays within the limits."""
        return (
            self.int8_kl - self.bf16_kl <= KL_LIMIT
            and self.worst_excess <= BAND_LIMIT
            and self.bf16_agreement - self.int8_agreement <= AGREEMENT_LIMIT
        )


def gate_context(context: int) -> int:
    """Tokens of the stretches a model with this context is judged on."""
    return min(context, LONGEST)


def judge_kv_cache(llm: LLM, rows: Iterable[Row], progress: Callable[[int], None] | None = None) -> KvGate:
    """Judge int8 keys and values of a model that was loaded with float32 ones, on stretches of its whole context.

    `progress(tokens)` hears how far it is. Raises SettingsError when the text has fewer tokens than one stretch.
    """
    assert llm.loaded.settings.kv_cache_dtype == "f32", "float32 is what the others are compared with"
    stretches = list(cut(llm, rows))
    others = [llm.with_kv_cache("bf16"), llm.with_kv_cache("int8")]
    found = []
    for ids in stretches:
        found.append(compare(llm, others, ids))
        if progress:
            progress(len(found) * len(ids))
    kl_SMP, same_SMP = (np.stack(parts) for parts in zip(*found, strict=True))
    bands = bands_of(kl_SMP.shape[-1])
    means_BM = np.array([kl_SMP[..., band].mean(axis=(0, 2), dtype=np.float64) for band in bands])
    bf16_kl, int8_kl = kl_SMP.mean(axis=(0, 2), dtype=np.float64)
    bf16_agreement, int8_agreement = same_SMP.mean(axis=(0, 2))
    return KvGate(
        tokens=len(stretches) * len(stretches[0]),
        longest=len(stretches[0]),
        int8_kl=float(int8_kl),
        int8_kl_p99=float(np.quantile(kl_SMP[:, 1], 0.99)),
        int8_agreement=float(int8_agreement),
        bf16_kl=float(bf16_kl),
        bf16_agreement=float(bf16_agreement),
        worst_excess=float((means_BM[:, 1] - means_BM[:, 0]).max()),
        text=hashlib.sha256(json.dumps(stretches).encode()).hexdigest(),
    )


def compare(exact: LLM, others: Sequence[LLM], ids: Sequence[int]) -> tuple[Floats, Mask]:
    """KL(exact || other) and whether both prefer the same token, [models, positions], of one text."""
    divergences: list[list[Floats]] = [[] for _ in others]
    same: list[list[Mask]] = [[] for _ in others]
    for parts in zip(*(model.engine.score(ids) for model in (exact, *others)), strict=True):
        for start in range(0, len(parts[0]), ROWS_AT_ONCE):
            p_RV, *rest = (log_softmax(part[start : start + ROWS_AT_ONCE]) for part in parts)
            for index, q_RV in enumerate(rest):
                divergences[index].append(divergence(p_RV, q_RV))
                same[index].append(p_RV.argmax(axis=-1) == q_RV.argmax(axis=-1))
    return np.array([np.concatenate(items) for items in divergences]), np.array(
        [np.concatenate(items) for items in same]
    )


def cut(llm: LLM, rows: Iterable[Row]) -> Iterator[list[int]]:
    """The rows behind one another, in stretches of a whole context each."""
    length = gate_context(llm.loaded.settings.context)
    most = max(MOST_TOKENS, length)
    ids: list[int] = []
    for part, _ in encode_rows(llm.tokenizer, llm.loaded.template, rows, length):
        ids += part
        if len(ids) >= most:
            break
    if len(ids) < length:
        raise SettingsError(
            f"the text has {len(ids):,} tokens; {length:,}, one whole context, are needed to test int8 keys and "
            "values. Give a longer text."
        )
    for start in range(0, min(len(ids), most) - length + 1, length):
        yield ids[start : start + length]


def bands_of(positions: int) -> list[slice]:
    """Bands of positions: the first 512, then as many as there were before; a short rest belongs to the last one."""
    stops = [FIRST_BAND]
    while 2 * stops[-1] <= positions:
        stops.append(2 * stops[-1])
    stops[-1] = positions
    return [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]
