"""A model being served, and one HTTP request's share of it: prompts in, growing answers out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from twofold.engine.request import Event, Request, SamplingParams, SessionName
from twofold.engine.runner import Runner
from twofold.engine.stream import Stream
from twofold.ops.types import Drawn
from twofold.server.about import About
from twofold.server.account import usage_details
from twofold.server.metrics import Metrics
from twofold.server.problems import Problem, problem_of
from twofold.server.quotas import Quotas
from twofold.server.settings import ServerSettings
from twofold.server.structure import Grammars, Matcher
from twofold.text.chat import ChatTemplate, encode_chat
from twofold.text.stream import TextStream
from twofold.text.tokenizer import Tokenizer
from twofold.text.tools import CallBegun, Part, Said, ToolReader


@dataclass(frozen=True, kw_only=True)
class Model:
    """What the server needs to know of a loaded model. names: those it answers to, the first is its own."""

    names: tuple[str, ...]
    tokenizer: Tokenizer
    template: ChatTemplate
    eos_ids: tuple[int, ...]
    defaults: SamplingParams
    context: int
    created: int
    fingerprint: str
    about: About


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Everything the routes share."""

    model: Model
    runner: Runner
    settings: ServerSettings
    metrics: Metrics
    grammars: Grammars
    quotas: Quotas

    def check_model(self, name: str | None) -> str:
        """The name to answer under. Raises Problem 404 for a model that is not served here."""
        if name is None or name in self.model.names:
            return name or self.model.names[0]
        known = ", ".join(self.model.names)
        raise Problem(
            404, f"the model {name!r} is not served here; this is {known}", param="model", code="model_not_found"
        )

    def encode_messages(
        self, messages: Sequence[Mapping[str, Any]], source: str | None = None, **options: Any
    ) -> list[int]:
        """Token ids of a conversation, see text.chat.encode_chat. source: of another template than the model's."""
        template = self.model.template if source is None else ChatTemplate({"default": source})
        return encode_chat(self.model.tokenizer, template, messages, **options)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What one HTTP request wants: `choices` answers to each prompt.

    echoes: the prompts' texts, where answers begin with them. grammar: the form the answers must have, which
    `constraint` is compiled from. owner: whose turn it takes. session: what is computed is kept by this name.
    """

    prompts: Sequence[list[int]]
    params: SamplingParams
    echoes: tuple[str, ...] = ()
    choices: int = 1
    tools: tuple[str, ...] = ()
    most_calls: int | None = None
    skip_special: bool = True
    include_stop: bool = False
    usage_details: bool = False
    grammar: str | None = None
    constraint: Matcher | None = None
    salt: bytes = b""
    owner: bytes = b""
    session: SessionName | None = None
    arrived_s: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, kw_only=True)
class Delta:
    """How one choice has grown. `finish` is set on its last one."""

    index: int
    parts: list[Part]
    drawn: list[Drawn]
    finish: str | None = None

    @property
    def text(self) -> str:
        """The text in it."""
        return "".join(part.text for part in self.parts if isinstance(part, Said))


class Choice:
    """One answer in the making: token events in, deltas out.

    first_s and latest_s: time.perf_counter() at its first and latest token. scores: of the prompt, where it is judged.
    """

    def __init__(self, index: int, request: Request, ask: Ask, tokenizer: Tokenizer) -> None:
        self.index = index
        self.request = request
        self.finish: str | None = None
        self.tokens = 0
        self.cached = 0
        self.first_s: float | None = None
        self.latest_s = 0.0
        self._text = TextStream(
            tokenizer, ask.params.stop, include_stop=ask.include_stop, skip_special=ask.skip_special
        )
        self._tools = ToolReader(ask.tools) if ask.tools else None
        self._most_calls = ask.most_calls
        self._drawn: list[Drawn] = []
        self.scores: tuple[Drawn, ...] = ()
        self._shows_prompt = bool(ask.echoes) and ask.params.logprobs is not None
        self._echo = ask.echoes[index // ask.choices] if ask.echoes else ""
        self._alternatives = ask.params.logprobs or 0

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text, None when something else did."""
        return self._text.stop_string

    def take(self, event: Event, at_s: float) -> Delta | None:
        """Add one token; None when there is nothing to show yet."""
        self.first_s = at_s if self.first_s is None else self.first_s
        self.latest_s = at_s
        self.cached = event.cached
        echo = self._begin(event) if not self.tokens else ""
        if self.request.params.max_tokens == 0:
            return self._delta([Said(echo)] if echo else [], finish="length")
        self.tokens += 1
        finish: str | None = event.finish
        text = echo
        if event.finish != "stop" or self._shows_prompt:
            self._drawn.append(event.drawn)
        if event.finish != "stop":
            text += self._text.feed(event.drawn.token)
        if event.finish and not self._text.stopped:
            text += self._text.flush()
        if self._text.stopped:
            finish = "stop"
        parts = self._parts(text, is_last=finish is not None)
        if self._tools and self._tools.calls:
            if self._most_calls and self._tools.calls >= self._most_calls and not self._tools.is_open:
                finish = "stop"
            finish = "tool_calls" if finish == "stop" else finish
        return self._delta(parts, finish) if parts or finish else None

    def _begin(self, event: Event) -> str:
        """Take over what the prompt was judged; the text the answer begins with."""
        self.scores = event.scores
        if self._shows_prompt:
            cut = [replace(score, alternatives=score.alternatives[: self._alternatives]) for score in event.scores]
            self._drawn = [Drawn(token=self.request.prompt[0]), *cut]
        return self._echo

    def _delta(self, parts: list[Part], finish: str | None) -> Delta:
        self.finish = finish
        drawn, self._drawn = self._drawn, []
        return Delta(index=self.index, parts=parts, drawn=drawn, finish=finish)

    def _parts(self, text: str, is_last: bool) -> list[Part]:
        if self._tools is None:
            return [Said(text)] if text else []
        parts = self._tools.feed(text)
        parts += self._tools.flush() if is_last else []
        if self._most_calls is None:
            return parts
        return [part for part in parts if isinstance(part, Said) or part.index < self._most_calls]


class Job:
    """An Ask that the runner has taken. Iterate `deltas` once; leaving it early cancels what still runs.

    failed: the code of the problem that ended it early.
    """

    def __init__(self, serving: Serving, ask: Ask) -> None:
        """Raises what Engine.prepare and Runner.submit raise; then nothing of it runs."""
        self.serving = serving
        self.ask = ask
        model, engine = serving.model, serving.runner.engine
        chosen = ask.params.over(model.defaults)
        requests = []
        for prompt in ask.prompts:
            for number in range(ask.choices):
                constraint = ask.constraint.copy() if ask.constraint else None
                seed = None if chosen.seed is None else (chosen.seed + number) % 2**63
                settings = replace(chosen, seed=seed)
                requests.append(
                    engine.prepare(prompt, settings, model.eos_ids, constraint, ask.salt, ask.owner, ask.session)
                )
        self.choices = [Choice(index, request, ask, model.tokenizer) for index, request in enumerate(requests)]
        self._by_id = {choice.request.id: choice for choice in self.choices}
        self.failed: str | None = None
        self.stream: Stream = serving.runner.submit(requests)
        serving.quotas.charge(ask.owner, sum(map(len, ask.prompts)))

    async def deltas(self) -> AsyncGenerator[list[Delta]]:
        """What each step adds. Raises what ended the requests early."""
        meter = self.serving.metrics.meter(self.ask, self.stream)
        try:
            async for delivery in self.stream:
                meter.take(delivery)
                self.serving.quotas.charge(self.ask.owner, len(delivery.events))
                found = []
                for event in delivery.events:
                    choice = self._by_id[event.request_id]
                    if choice.finish:
                        continue  # a stop string ended it within this very step
                    delta = choice.take(event, delivery.at_s)
                    if choice.finish:
                        meter.finish(choice.request, choice.tokens, choice.finish, delivery.at_s)
                        if event.finish is None:
                            self.stream.cancel(choice.request.id)
                    if delta:
                        found.append(delta)
                if found:
                    yield found
        except Exception as error:
            self.failed = problem_of(error).code
            raise
        finally:
            self.stream.cancel()

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens read and written so far, in OpenAI's shape."""
        prompt = sum(len(prompt) for prompt in self.ask.prompts)
        answer = sum(choice.tokens for choice in self.choices)
        cached = sum(choice.cached for choice in self.choices[:: self.ask.choices])  # of a prompt's first choice
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": 0},
            **({"details": usage_details(self)} if self.ask.usage_details else {}),
        }


def fingerprint(parts: Sequence[str]) -> str:
    """Short name of a build and a model."""
    return "fp_" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def begun_calls(parts: Sequence[Part]) -> int:
    """How many calls begin in these parts."""
    return sum(isinstance(part, CallBegun) for part in parts)
