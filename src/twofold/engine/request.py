"""What a caller asks for and what it gets back, token by token."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, Protocol

from twofold.engine.lookup import Lookup
from twofold.engine.masks import common, last_of
from twofold.errors import InvalidSampling
from twofold.ops.types import Drawn, RowSampling

FinishReason = Literal["stop", "length", "cancelled"]
MOST_PRIORITY = 100
MOST_BAD = 1024
"""Bad sequences are compared with the end of the text before every token."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to generate. None means: as the model's generation_config.json says, else neutral.

    temperature: 0 is greedy. top_k: 0 keeps all. seed: None draws a fresh one. max_tokens: None goes on until a stop
    or the end of the context. min_tokens: before so many, tokens that end the answer are not drawn. stop: strings that
    end the answer (cut off before them). stop_token_ids: further ids that end it. logprobs: number of alternatives to
    report per token, None for none. logit_bias: id -> added logit. priority: lower goes first among those that wait.
    allowed_token_ids: no others are drawn. bad_words: texts the answer must not have; whoever has the tokenizer makes
    bad_sequences of them, of which the last token is not drawn where the others have just been. prompt_logprobs: number
    of alternatives to report per token of the prompt, each judged by what came before it; with it max_tokens may be 0.
    Raises InvalidSampling for values out of range.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)
    priority: int = 0
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    bad_sequences: tuple[tuple[int, ...], ...] = ()
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        in_range("temperature", self.temperature, 0.0, 100.0)
        in_range("top_p", self.top_p, 0.0, 1.0, low_excluded=True)
        in_range("min_p", self.min_p, 0.0, 1.0)
        in_range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        in_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        in_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        whole("top_k", self.top_k, 0, 2**31)
        whole("seed", self.seed, 0, 2**64 - 1)
        whole("max_tokens", self.max_tokens, 1 if self.prompt_logprobs is None else 0, 2**31)
        whole("min_tokens", self.min_tokens, 0, 2**31)
        whole("logprobs", self.logprobs, 0, 100)
        whole("prompt_logprobs", self.prompt_logprobs, 0, 100)
        whole("priority", self.priority, -MOST_PRIORITY, MOST_PRIORITY)
        texts("stop", self.stop)
        texts("bad_words", self.bad_words)
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise InvalidSampling("allowed_token_ids is empty, so nothing could be drawn; leave it out to allow all")
        if len(self.bad_sequences) > MOST_BAD or not all(self.bad_sequences):
            raise InvalidSampling(f"there are {len(self.bad_sequences)} bad sequences; at most {MOST_BAD}, none empty")
        for token in self.named_ids:
            whole("a token id", token, 0, 2**31)
        for token, bias in self.logit_bias.items():
            in_range(f"logit_bias of {token}", bias, -100.0, 100.0)

    @property
    def named_ids(self) -> tuple[int, ...]:
        """Every token id that the settings name."""
        bad = [token for sequence in self.bad_sequences for token in sequence]
        return (*self.stop_token_ids, *self.logit_bias, *(self.allowed_token_ids or ()), *bad)

    def over(self, defaults: SamplingParams) -> SamplingParams:
        """These settings, with what is None taken from `defaults`."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(defaults, **{name: value for name, value in own.items() if value is not None})


def in_range(name: str, value: float | None, low: float, high: float, low_excluded: bool = False) -> None:
    """Raise InvalidSampling unless value is None or a finite number in the range."""
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (low_excluded and value == low):
        more = f"above {low:g}" if low_excluded else f"at least {low:g}"
        raise InvalidSampling(f"{name} is {value!r}; it must be a number {more} and at most {high:g}")


def texts(name: str, values: Many[str]) -> None:
    """Raise InvalidSampling unless these are non-empty strings."""
    if isinstance(values, str) or not all(isinstance(text, str) and text for text in values):
        raise InvalidSampling(f"{name} is {values!r}; a tuple of non-empty strings was expected")


def whole(name: str, value: int | None, low: int, high: int) -> None:
    """Raise InvalidSampling unless value is None or a whole number in the range."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidSampling(f"{name} is {value!r}; it must be a whole number from {low} to {high}")


class Constraint(Protocol):
    """Which tokens an answer may have. One object serves one request and remembers how far it has come."""

    def allowed(self) -> bytes:
        """Tokens that may come next, see RowSampling.allowed. Raises RequestError when there is no going on."""

    def accept(self, token: int) -> None:
        """The next token is this one. Never raises: what is wrong with it is told by `allowed`."""


@dataclass(frozen=True, kw_only=True)
class SessionName:
    """A conversation that is kept: `owner` gives it the name."""

    owner: str = ""
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt to answer. `seed` is fixed here, so that the answer does not depend on who else is served.

    salt: known prefixes are shared with requests of the same salt only. owner: who asks; owners take turns. session:
    what is computed is kept by this name. allowed: the mask of allowed_token_ids, see RowSampling.
    """

    id: int
    prompt: tuple[int, ...]
    params: SamplingParams
    seed: int
    stop_ids: frozenset[int]
    max_tokens: int
    constraint: Constraint | None = None
    salt: bytes = b""
    owner: bytes = b""
    session: SessionName | None = None
    allowed: bytes | None = None

    @property
    def is_scored(self) -> bool:
        """Whether every token of the prompt but the first is judged by what came before it."""
        return self.params.prompt_logprobs is not None

    @cached_property
    def repeats(self) -> bool:
        """Whether tokens of prompt and answer are penalised."""
        return self.params.repetition_penalty not in (None, 1.0)

    @cached_property
    def penalises(self) -> bool:
        """Whether tokens of the answer are penalised."""
        return self.repeats or self.params.presence_penalty != 0 or self.params.frequency_penalty != 0

    @cached_property
    def is_free(self) -> bool:
        """Whether what may be drawn is the same for every token of the answer that may be its last."""
        return not (self.penalises or self.constraint or self.params.bad_sequences)

    @cached_property
    def fixed_sampling(self) -> dict[str, Any]:
        """Settings of RowSampling that are the same for every token of the answer."""
        params = self.params
        return {
            "temperature": 1.0 if params.temperature is None else params.temperature,
            "top_k": params.top_k or 0,
            "top_p": 1.0 if params.top_p is None else params.top_p,
            "min_p": params.min_p or 0.0,
            "repetition_penalty": params.repetition_penalty or 1.0,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "logit_bias": tuple(params.logit_bias.items()),
            "allowed": self.allowed,
            "seed": self.seed,
            "prompt": self.prompt if self.repeats else (),
            "logprobs": -1 if params.logprobs is None else params.logprobs,
        }


@dataclass(kw_only=True, slots=True)
class Event:
    """One generated token of one request; `finish` is set on the last one. cached: prompt tokens that were known.

    scores: with the first token of a request that is scored, the tokens of its prompt after the first. Where max_tokens
    is 0 a token is drawn all the same and belongs to nothing. Not frozen for the reason that RowSampling is not.
    """

    request_id: int
    drawn: Drawn
    finish: FinishReason | None = None
    cached: int = 0
    scores: tuple[Drawn, ...] = ()


def empty_table() -> array[int]:
    """A block table, int32 as batches have it."""
    return array("i")


@dataclass(kw_only=True, eq=False)
class Sequence:
    """A request being served: all its tokens so far, how many are in the cache, and the blocks it holds.

    Position p lies in global block p // block_size, and in local block (p - local_base) // block_size.
    keys: of its full blocks, as far as they were needed; remembered: blocks made known to others; cached: prompt
    tokens that were known when it was first admitted; turn, arrival: its place among others (engine/order.py); scores:
    the tokens of its prompt after the first that were judged so far, where the request asks for it. is_over: nobody
    waits for it any more.
    """

    request: Request
    tokens: list[int]
    computed: int = 0
    global_blocks: array[int] = field(default_factory=empty_table)
    local_blocks: array[int] = field(default_factory=empty_table)
    local_base: int = 0
    keys: list[bytes] = field(default_factory=list)
    remembered: int = 0
    cached: int | None = None
    turn: int = 0
    arrival: int = 0
    scores: list[Drawn] = field(default_factory=list)
    lookup: Lookup = field(default_factory=Lookup)
    is_over: bool = False

    @property
    def pending(self) -> int:
        """Tokens not yet run through the network."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> list[int]:
        """The answer so far."""
        return self.tokens[len(self.request.prompt) :]

    @property
    def is_scoring(self) -> bool:
        """Whether tokens of the prompt are still to be judged."""
        return self.request.is_scored and len(self.scores) < len(self.request.prompt) - 1

    @property
    def shareable(self) -> int:
        """Tokens at the beginning whose keys and values may come from others: not the last, and none to judge by."""
        most = len(self.tokens) - 1
        return min(most, len(self.scores)) if self.is_scoring else most

    def judging(self, count: int) -> range:
        """Positions among the next `count` tokens that judge the token after them."""
        if not self.is_scoring:
            return range(0)
        last = len(self.request.prompt) - 1
        return range(max(self.computed, len(self.scores)), min(self.computed + count, last))

    def most_rows(self, rows: int, judging: int) -> int:
        """How many of `rows` tokens may run when only so many of them may judge."""
        first = max(self.computed, len(self.scores))
        if not self.is_scoring or first + judging >= len(self.request.prompt) - 1:
            return rows
        return min(rows, first + judging - self.computed)

    def judging_row(self, position: int) -> RowSampling:
        """Settings for judging the token of the prompt after this position."""
        return RowSampling(token=self.tokens[position + 1], logprobs=self.request.params.prompt_logprobs or 0)

    def row_sampling(self, guesses: Many[int] = ()) -> RowSampling:
        """Settings for drawing this sequence's next token, as if `guesses` had been drawn before."""
        request = self.request
        step = len(self.tokens) + len(guesses) - len(request.prompt)
        if request.is_free and step >= request.params.min_tokens:
            return RowSampling(step=step, **request.fixed_sampling)
        fixed, constraint = request.fixed_sampling, request.constraint
        if constraint:
            fixed = fixed | {"allowed": common(request.allowed, constraint.allowed())}
        generated = [*self.generated, *guesses] if request.penalises else ()
        return RowSampling(step=step, banned=self.banned(guesses), generated=generated, **fixed)

    def banned(self, guesses: Many[int]) -> tuple[int, ...]:
        """Tokens that may not come after `guesses`: too early an end, or the end of a bad sequence."""
        params, start = self.request.params, len(self.request.prompt)
        is_early = len(self.tokens) + len(guesses) - start < params.min_tokens
        found = set(self.request.stop_ids) if is_early else set()
        if params.bad_sequences:
            longest = max(map(len, params.bad_sequences))
            said = [*self.tokens[max(start, len(self.tokens) - longest) :], *guesses]
            found |= last_of(params.bad_sequences, said)
        return tuple(sorted(found))
