"""What the tasks of lm-eval ask of a model: how likely a text is, and how it goes on.

Nothing here knows lm-eval; bench.tasks hands its requests over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from twofold.api import LLM, SamplingParams
from twofold.errors import SettingsError
from twofold.ops.logprobs import log_softmax
from twofold.ops.packed import Floats

ANSWER_TOKENS = 256
"""Longest answer where a task does not say; lm-eval's own default."""
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens")
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
ROWS_AT_ONCE = 16


class Scorer:
    """Scores texts with a model, one at a time.

    The last text is remembered: a task asks for each of its choices in turn, and choices of one token have all
    their logits behind the same text.
    """

    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        self.context: int = llm.loaded.settings.context
        self._seen: tuple[Sequence[int], int] = ((), 0)
        self._rows: Floats = np.zeros((0, 0), np.float32)

    def continuation(self, context: str, text: str) -> tuple[float, bool]:
        """Log-probability of `text` after `context` in nats, and whether greedy decoding would have given it.

        Both are encoded together, so a token may begin in the context and end in the text: it counts. What does not
        fit the context is cut off in front. Raises SettingsError for a text that is too long by itself.
        """
        ids, before = self.llm.encode(context + text), self.llm.encode(context)
        first = max(shared(ids, before), self.shortest)
        count = len(ids) - first
        if count <= 0:
            return 0.0, True
        if count > self.context:
            raise SettingsError(
                f"a task asks for a continuation of {count} tokens; this model holds {self.context}. Raise --context"
            )
        return self.score(ids[-self.context - 1 :], count)

    def whole(self, text: str) -> float:
        """Log-probability of a whole text in nats, every token behind as many others as the context holds."""
        ids = self.llm.encode(text)
        scores = (self.score(ids[start:stop], count)[0] for start, stop, count in windows(len(ids), self.context))
        return float(sum(scores))

    @property
    def shortest(self) -> int:
        """Tokens that stand in front of every text, or the one that has to where a tokenizer puts none there."""
        return max(1, len(self.llm.encode("")))

    def score(self, ids: Sequence[int], count: int) -> tuple[float, bool]:
        """Sum of the log-probabilities of the last `count` tokens, and whether each of them was the likeliest."""
        if (ids[:-1], count) != self._seen:
            self._rows = self.last_rows(ids[:-1], count)
            self._seen = (ids[:-1], count)
        chosen = self._rows[np.arange(count), ids[-count:]]
        return float(chosen.sum(dtype=np.float64)), bool((self._rows.argmax(axis=1) == ids[-count:]).all())

    def last_rows(self, ids: Sequence[int], count: int) -> Floats:
        """Log-probabilities behind each of the last `count` tokens, float32 [count, V]."""
        found: list[Floats] = []
        skipped = len(ids) - count
        for logits_TV in self.llm.engine.score(ids):
            rows_RV = logits_TV[max(0, skipped) :]
            skipped -= len(logits_TV)
            starts = range(0, len(rows_RV), ROWS_AT_ONCE)
            found += [log_softmax(rows_RV[start : start + ROWS_AT_ONCE]) for start in starts]
        return np.concatenate(found)

    def answers(self, prompts: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
        """Continue prompts as a task's generation settings say; stop texts are not part of the answers."""
        params = sampling_of(settings)
        room = self.context - (params.max_tokens or 0)
        if room < 1:
            raise SettingsError(
                f"a task asks for answers of {params.max_tokens} tokens; this model holds {self.context} with their "
                "prompts. Raise --context"
            )
        encoded = [self.llm.encode(prompt)[-room:] for prompt in prompts]
        return [answer.text for answer in self.llm.generate(encoded, params)]


def shared(ids: Sequence[int], others: Sequence[int]) -> int:
    """Number of tokens both begin with."""
    pairs = enumerate(zip(ids, others, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(ids), len(others)))


def windows(count: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Cut `count` tokens into (start, stop, how many of the last ones count), so that all but the first count once.

    Of each window all tokens but the last are read; every window but the first reads a whole context.
    """
    done = 1
    while done < count:
        stop = min(count, done + context)
        yield max(0, stop - context - 1), stop, stop - done
        done = stop


def sampling_of(settings: Mapping[str, Any]) -> SamplingParams:
    """A task's generation settings as ours; greedy unless it asks for samples. SettingsError for what we lack."""
    known = {"until", "do_sample", "num_beams", *LENGTHS, *SAMPLING}
    unknown = sorted(set(settings) - known)
    if unknown or settings.get("num_beams", 1) != 1:
        raise SettingsError(
            f"a task asks for generation with {', '.join(unknown) or 'several beams'}; one beam and "
            f"{', '.join(sorted(known))} are what there is. Choose another task"
        )
    until = settings.get("until") or []
    lengths = [settings[name] for name in LENGTHS if settings.get(name) is not None]
    values = {name: settings[name] for name in SAMPLING if settings.get(name) is not None}
    if not settings.get("do_sample", values.get("temperature", 0) > 0):
        values["temperature"] = 0.0
    return SamplingParams(
        max_tokens=int(lengths[0]) if lengths else ANSWER_TOKENS,
        stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
        **values,
    )
