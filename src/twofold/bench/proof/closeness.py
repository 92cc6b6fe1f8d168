"""How close the candidate's answers are to the baseline's: by probabilities where both give them, else by the words."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from twofold.api import LLM
from twofold.bench.evaluate import check_comparable
from twofold.bench.proof.contenders import TRANSFORMERS, Spec, folder_of
from twofold.bench.proof.model import Quality, Role, Sample
from twofold.bench.proof.workload import CHAT, Request, Workload
from twofold.bench.quality import score, stretch_tokens
from twofold.errors import OutOfMemory, SettingsError
from twofold.text.rows import Row, encode_rows

MOST_SCORED = 64
"""Conversations whose tokens are scored: enough for two digits of KL, a minute of work at most."""


def compare_answers(workload: Workload, seed: int, samples: Sequence[Sample]) -> Quality:
    """What answers alone tell: how many are equal, how much they share, how many are right."""
    pairs = paired(samples)
    if not pairs:
        return Quality(kind="none", reason="no request was answered by both")
    same = [old.text.strip() == new.text.strip() for old, new in pairs]
    overlaps = [overlap(old.text, new.text) for old, new in pairs]
    return Quality(
        kind="answers",
        same=sum(same) / len(pairs),
        overlap=sum(overlaps) / len(pairs),
        compared=len(pairs),
        expected_baseline=share_right(workload, seed, samples, "baseline"),
        expected_candidate=share_right(workload, seed, samples, "candidate"),
    )


def paired(samples: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Answers of both to the same request of the same round."""
    by_role: dict[Role, dict[tuple[int, int], Sample]] = {"baseline": {}, "candidate": {}}
    for item in samples:
        if not item.error:
            by_role[item.role][item.round, item.request] = item
    common = sorted(by_role["baseline"].keys() & by_role["candidate"].keys())
    return [(by_role["baseline"][key], by_role["candidate"][key]) for key in common]


def overlap(one: str, other: str) -> float:
    """Share of words that both have in the same order, 0 to 1."""
    return difflib.SequenceMatcher(a=one.split(), b=other.split(), autojunk=False).ratio()


def share_right(workload: Workload, seed: int, samples: Sequence[Sample], role: Role) -> float | None:
    """Share of answers that hold what was expected; None when nothing was."""
    right = []
    rounds: dict[int, list[Request]] = {}
    for item in samples:
        if item.role == role and not item.error:
            asked = rounds.setdefault(item.round, workload.requests(seed, item.round))[item.request]
            if asked.expected:
                right.append(asked.expected.lower() in item.text.lower())
    return sum(right) / len(right) if right else None


def scored(
    quality: Quality, specs: Mapping[Role, Spec], rows: Sequence[Row], progress: Callable[[str], None]
) -> Quality:
    """The same with KL divergence and agreement over `rows`, or with the reason why there are none.

    Both models are loaded once more, beside each other, after the servers have ended.
    """
    reason = reason_against(specs, rows)
    if reason:
        return replace(quality, reason=reason)
    try:
        vocabulary = LLM(
            specs["candidate"].model, **settings_of(specs["candidate"], 1)
        ).loaded.model.architecture.vocabulary
        step = stretch_tokens(vocabulary)
        candidate = LLM(specs["candidate"].model, **settings_of(specs["candidate"], step))
        baseline = reference(specs["baseline"], candidate, step)
    except (OutOfMemory, SettingsError) as error:
        return replace(quality, reason=str(error))
    progress(f"scoring {len(rows)} conversations with both")
    window = candidate.loaded.settings.context
    texts = [
        item
        for item in encode_rows(candidate.tokenizer, candidate.loaded.template, rows, window)
        if len(item[0]) < window
    ]
    found = score(candidate, texts, baseline)
    if not len(found.divergences):
        return replace(quality, reason="no token of an answer could be scored")
    figures = found.figures()
    return replace(
        quality,
        kind="scored",
        kl=figures["kl_mean"],
        kl_p99=figures["kl_p99"],
        agreement=figures["agreement"],
        scored_tokens=figures["tokens"],
    )


def reason_against(specs: Mapping[Role, Spec], rows: Sequence[Row]) -> str:
    """Why probabilities cannot be compared, "" when they can."""
    for role, spec in specs.items():
        if spec.engine == "endpoint":
            return f"the {role} is an address, which gives no probabilities: answers are compared"
    return "" if rows else "no conversation was answered: there is nothing to score"


def settings_of(spec: Spec, step_tokens: int) -> dict[str, Any]:
    """As the contender ran, with steps of a length both share."""
    return {
        "dtype": spec.dtype,
        "threads": spec.threads,
        "step_tokens": step_tokens,
        "guess_tokens": 0,
        "max_sequences": 1,
    }


def reference(spec: Spec, candidate: LLM, step_tokens: int) -> Any:
    """The baseline, as far as scoring needs it. Raises SettingsError when the two have no tokenizer in common."""
    if spec.engine == TRANSFORMERS:
        return TransformersReference(spec, step_tokens)
    baseline = LLM(spec.model, **settings_of(spec, step_tokens))
    check_comparable(candidate, baseline)
    return baseline


class TransformersReference:
    """A checkpoint in transformers with the one method of an engine that scoring uses."""

    def __init__(self, spec: Spec, step_tokens: int) -> None:
        self.torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
        dtype = {"f32": self.torch.float32, "bf16": self.torch.bfloat16}[spec.dtype or "bf16"]
        loader = transformers.AutoModelForCausalLM
        self.model = loader.from_pretrained(folder_of(spec), dtype=dtype, local_files_only=True).eval()
        self.step_tokens = step_tokens
        self.engine = self

    def score(self, ids: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """Logits after every token, [count, V] for each stretch, as Engine.score gives them."""
        with self.torch.no_grad():
            logits = self.model(self.torch.tensor([list(ids)]), use_cache=False).logits[0].float().numpy()
        for start in range(0, len(ids), self.step_tokens):
            yield logits[start : start + self.step_tokens]


def rows_of(workload: Workload, seed: int, samples: Sequence[Sample]) -> list[Row]:
    """Conversations of the workload with the baseline's answers, spread over the rounds."""
    found: list[Row] = []
    for item in samples:
        if item.role == "baseline" and not item.error and item.text:
            asked = workload.requests(seed, item.round)[item.request]
            if asked.route == CHAT and not asked.body.get("tools"):
                found.append({"messages": [*asked.body["messages"], {"role": "assistant", "content": item.text}]})
    return found[:: max(1, len(found) // MOST_SCORED)][:MOST_SCORED]
