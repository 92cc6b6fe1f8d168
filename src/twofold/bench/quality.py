"""How good a model is, and how much it lost by quantisation: loss, KL divergence, expert load, exact answers.

Logits are looked at as they come, a few rows at a time, and only three figures per token are kept: a vocabulary of
200,000 and a long text need no more memory than a short one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from twofold.api import LLM, SamplingParams
from twofold.errors import SettingsError
from twofold.ops.logprobs import divergence, log_softmax
from twofold.ops.observe import ExpertLoad, Residuals
from twofold.text.rows import Row, Text, encode_rows

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

WINDOW = 2048
"""Most tokens of a plain text that are judged in one stretch."""
STRETCH_VALUES = 8 * 2**20
"""Logits held at a time: step_tokens * vocabulary of a model that is judged."""
ROWS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Figures of one model on held-out texts.

    loss: nats per counted token; perplexity: its exponential; least_load, most_load: an expert's tokens relative to
    its fair share; kl_mean, kl_p99: KL(reference || model) in nats, and agreement: how often both prefer the same
    token, on the same texts (None when there is no reference); exact: share of questions answered to the letter.
    """

    dtype: str
    tokens: int
    loss: float
    perplexity: float
    least_load: float | None = None
    most_load: float | None = None
    kl_mean: float | None = None
    kl_p99: float | None = None
    agreement: float | None = None
    exact: float | None = None
    exact_by_category: dict[str, float] | None = None

    def to_json(self, **more: Any) -> str:
        """One line, without the figures that were not measured; `more` comes first."""
        found = {name: rounded(value) for name, value in asdict(self).items() if value is not None}
        return json.dumps({**more, **found})


def rounded(value: Any) -> Any:
    """Five digits behind the point are plenty."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return round(value, 5) if isinstance(value, float) else value


@dataclass(frozen=True)
class Scored:
    """What one pass over texts gives for each token that counts.

    losses: nats; divergences: KL(reference || model) in nats, and same: whether both prefer the same token (empty
    without a reference); load: tokens per expert relative to the fair share, [MoE layers, E].
    """

    losses: Floats
    divergences: Floats
    same: Mask
    load: Floats

    def figures(self) -> dict[str, Any]:
        """The figures of Quality that follow from these."""
        loss = float(self.losses.mean(dtype=np.float64))
        found: dict[str, Any] = {"tokens": len(self.losses), "loss": loss, "perplexity": float(np.exp(loss))}
        if self.load.size:
            found |= {"least_load": float(self.load.min()), "most_load": float(self.load.max())}
        if len(self.divergences):
            found["kl_mean"] = float(self.divergences.mean(dtype=np.float64))
            found["kl_p99"] = float(np.quantile(self.divergences, 0.99))
            found["agreement"] = float(self.same.mean())
        return found


def texts_of(llm: LLM, rows: Iterable[Row]) -> Iterator[Text]:
    """Rows as token ids, in the model's own template and at most WINDOW tokens of prose at a time."""
    window = min(WINDOW, llm.loaded.settings.context)
    return encode_rows(llm.tokenizer, llm.loaded.template, rows, window)


def stretch_tokens(vocabulary: int) -> int:
    """step_tokens for models whose logits are judged: all models of a comparison take the same."""
    return max(1, min(512, STRETCH_VALUES // vocabulary))


def score(
    llm: LLM, texts: Iterable[Text], reference: LLM | None = None, progress: Callable[[int], None] | None = None
) -> Scored:
    """Run texts through a model, and through a reference beside it; `progress(tokens)` hears how far it is.

    Both must cut texts into the same stretches (step_tokens) and have the same vocabulary.
    """
    losses: list[Floats] = [np.zeros(0, np.float32)]
    divergences, same = list(losses), [np.zeros(0, bool)]
    plain = llm.engine.ops
    watched = ExpertLoad(plain)
    llm.engine.ops = watched
    done = 0
    try:
        for ids, mask in texts:
            for logprobs_RV, theirs_RV, next_R in counted_rows(llm, reference, ids, mask):
                losses.append(-logprobs_RV[np.arange(len(next_R)), next_R])
                if theirs_RV is not None:
                    divergences.append(divergence(theirs_RV, logprobs_RV))
                    same.append(theirs_RV.argmax(axis=-1) == logprobs_RV.argmax(axis=-1))
            done += len(ids)
            if progress:
                progress(done)
    finally:
        llm.engine.ops = plain
    counts = np.array(watched.counted(), np.float32)
    load = counts / counts.mean(axis=1, keepdims=True) if counts.size else counts
    return Scored(np.concatenate(losses), np.concatenate(divergences), np.concatenate(same), load)


def counted_rows(
    llm: LLM, reference: LLM | None, ids: Sequence[int], mask: Sequence[bool]
) -> Iterator[tuple[Floats, Floats | None, npt.NDArray[np.int64]]]:
    """Log-probabilities of the model and the reference for the tokens that count, and those tokens, in small pieces."""
    following = np.array([*ids[1:], 0])
    counts = np.array([*mask[1:], False])
    position = 0
    beside: Iterable[Floats | None] = reference.engine.score(ids) if reference else repeat(None)
    for ours, theirs in zip(llm.engine.score(ids), beside, strict=reference is not None):
        chosen = np.flatnonzero(counts[position : position + len(ours)])
        for start in range(0, len(chosen), ROWS_AT_ONCE):
            rows = chosen[start : start + ROWS_AT_ONCE]
            logprobs_RV = None if theirs is None else log_softmax(theirs[rows])
            yield log_softmax(ours[rows]), logprobs_RV, following[position + rows]
        position += len(ours)


def layer_errors(llm: LLM, reference: LLM, texts: Iterable[Text]) -> list[tuple[float, float]]:
    """Relative squared error of the residual stream after the attention and the feed-forward of every layer.

    Raises SettingsError for an exported graph, which shows nothing of its inside.
    """
    for side in (llm, reference):
        if side.loaded.settings.backend == "onnx":
            raise SettingsError(f"{side.loaded.model.folder} is an exported graph, whose layers cannot be watched")
    lost: list[float] = []
    total: list[float] = []
    for ids, _ in texts:
        for ours, theirs in zip(residuals(llm, ids), residuals(reference, ids), strict=True):
            lost = lost or [0.0] * len(ours)
            total = total or [0.0] * len(ours)
            for index, (x_TD, y_TD) in enumerate(zip(ours, theirs, strict=True)):
                lost[index] += float(np.square(x_TD - y_TD, dtype=np.float32).sum(dtype=np.float64))
                total[index] += float(np.square(y_TD, dtype=np.float32).sum(dtype=np.float64))
    shares = [part / whole for part, whole in zip(lost, total, strict=True)]
    return list(zip(shares[::2], shares[1::2], strict=True))


def residuals(llm: LLM, ids: Sequence[int]) -> Iterator[list[Floats]]:
    """The residual stream after every half layer, for each stretch of a text."""
    plain = llm.engine.ops
    try:
        watched = Residuals(plain)
        llm.engine.ops = watched
        for _ in llm.engine.score(ids):
            yield watched.take_all()
    finally:
        llm.engine.ops = plain


def exact_match(llm: LLM, questions: Sequence[Row], progress: Callable[[int], None] | None = None) -> dict[str, float]:
    """Share of greedy answers equal to the expected ones, per category and as "all"."""
    prompts = [llm.encode_messages(item["messages"]) for item in questions]
    params = SamplingParams(temperature=0.0, max_tokens=48)
    right: dict[str, list[bool]] = {"all": []}
    for start in range(0, len(prompts), 50):
        for item, answer in zip(questions[start:], llm.generate(prompts[start : start + 50], params), strict=False):
            is_right = answer.text.strip() == item["answer"]
            right["all"].append(is_right)
            right.setdefault(item["category"], []).append(is_right)
        if progress:
            progress(len(right["all"]))
    return {category: sum(found) / len(found) for category, found in right.items()}
