"""How good a model is, and how much it lost by quantisation: loss, KL divergence, exact answers, expert load."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twofold.api import LLM, SamplingParams
from twofold.ops.observe import ExpertLoad
from twofold.text.chat import encode_chat

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Figures of one model on held-out data.

    loss: nats per answer or prose token; exact: share of questions answered to the letter, overall and per category;
    least_load, most_load: an expert's tokens relative to its fair share; kl_*, agreement: against another model's
    distributions on the same tokens (None when there is no other).
    """

    dtype: str
    loss: float
    exact: float
    exact_by_category: dict[str, float]
    least_load: float | None = None
    most_load: float | None = None
    kl_mean: float | None = None
    kl_p99: float | None = None
    agreement: float | None = None

    def to_json(self) -> str:
        """One line."""
        return json.dumps({name: rounded(value) for name, value in asdict(self).items()})


def rounded(value: Any) -> Any:
    """Five digits behind the point are plenty."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return round(value, 5) if isinstance(value, float) else value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def exact_match(
    llm: LLM, questions: Sequence[dict[str, Any]], progress: Callable[[int], None] | None = None
) -> dict[str, float]:
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


def heldout_ids(llm: LLM, rows: Sequence[dict[str, Any]]) -> Iterator[tuple[list[int], npt.NDArray[np.bool_]]]:
    """Token ids of each row and which of them count: all of a prose row, the assistant's words in a conversation."""
    for row in rows:
        if "text" in row:
            ids = llm.encode(row["text"])
            yield ids, np.arange(len(ids)) > 0
        else:
            ids = encode_chat(llm.tokenizer, llm.loaded.template, row["messages"], add_generation_prompt=False)
            yield ids, answer_mask(llm, ids)


def answer_mask(llm: LLM, ids: Sequence[int]) -> npt.NDArray[np.bool_]:
    """True where a token belongs to an assistant's turn, its end included."""
    special = llm.tokenizer.special_ids
    start, end, stop = special["<|header_start|>"], special["<|header_end|>"], special["<|eot|>"]
    assistant = llm.tokenizer.encode("assistant")
    mask = np.zeros(len(ids), bool)
    inside = False
    for position, token in enumerate(ids):
        mask[position] = inside
        if token == end and list(ids[position - len(assistant) - 1 : position]) == [start, *assistant]:
            inside = True
        elif token == stop:
            inside = False
    return mask


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities over the last axis; sums in float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    sums = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    result: Floats = shifted - np.log(sums).astype(np.float32)
    return result


@dataclass(frozen=True)
class Scored:
    """What one pass over held-out rows gives, for the tokens that count.

    losses: nats; distributions: log-probabilities, one array per row; load: tokens per expert relative to the fair
    share, [MoE layers, E].
    """

    losses: Floats
    distributions: list[Floats]
    load: Floats


def score(llm: LLM, rows: Sequence[dict[str, Any]]) -> Scored:
    """Run held-out rows through a model, watching its experts."""
    losses, distributions = [], []
    plain = llm.engine.ops
    watched = ExpertLoad(plain, sum(target.role == "router" for target in llm.loaded.model.targets))
    llm.engine.ops = watched
    try:
        for ids, mask in heldout_ids(llm, rows):
            logprobs = log_softmax(llm.logits(ids)[:-1][mask[1:]])
            losses.append(-logprobs[np.arange(len(logprobs)), np.array(ids)[1:][mask[1:]]])
            distributions.append(logprobs)
    finally:
        llm.engine.ops = plain
    counts = np.array(watched.counts, np.float32)
    return Scored(np.concatenate(losses), distributions, counts / counts.mean(axis=1, keepdims=True))


def divergence(reference: Scored, candidate: Scored) -> tuple[float, float, float]:
    """KL(reference || candidate): mean and 99th percentile in nats, and how often both prefer the same token."""
    kls, same = [], []
    for p, q in zip(reference.distributions, candidate.distributions, strict=True):
        kls.append((np.exp(p) * (p - q)).sum(axis=-1, dtype=np.float64))
        same.append(p.argmax(axis=-1) == q.argmax(axis=-1))
    values = np.concatenate(kls)
    return float(values.mean()), float(np.quantile(values, 0.99)), float(np.concatenate(same).mean())
