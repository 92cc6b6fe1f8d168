"""All that a library user needs: LLM and SamplingParams."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twofold.config import Settings
from twofold.drafting import build_guesser, check_draft, load_draft
from twofold.engine.engine import Engine
from twofold.engine.limits import EngineLimits
from twofold.engine.request import Event, FinishReason, SamplingParams
from twofold.errors import SettingsError
from twofold.loading import Loaded, Progress, load_model
from twofold.ops.packed import MappingPacker
from twofold.ops.types import Drawn, KvDtype
from twofold.placing import build_ops
from twofold.text.chat import encode_chat
from twofold.text.stream import TextStream
from twofold.text.words import spellings

__all__ = ["LLM", "Completion", "Piece", "SamplingParams", "Settings"]

Prompt = str | Sequence[int]
Message = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of an answer as it becomes available; `finish` is set on the last one."""

    text: str
    tokens: tuple[Drawn, ...] = ()
    finish: FinishReason | None = None


@dataclass(kw_only=True)
class Completion:
    """An answer: its text, its tokens (a closing stop token included) and how long it took.

    first_token_s counts from the request to the first token, decode_s from there to the last. steps: runs of the
    network behind the tokens; fewer than tokens where guesses came true. prompt_scores: with prompt_logprobs, the
    tokens of the prompt after the first with log-probabilities and ranks.
    """

    prompt_tokens: int
    prompt_scores: tuple[Drawn, ...] = ()
    text: str = ""
    tokens: list[Drawn] = field(default_factory=list)
    finish: FinishReason | None = None
    first_token_s: float = 0.0
    decode_s: float = 0.0
    steps: int = 0

    @property
    def token_ids(self) -> list[int]:
        """Ids of the generated tokens."""
        return [drawn.token for drawn in self.tokens]

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens over the time to the first token."""
        return self.prompt_tokens / self.first_token_s if self.first_token_s else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        """Tokens after the first over the time they took."""
        return (len(self.tokens) - 1) / self.decode_s if self.decode_s else 0.0


class LLM:
    """A model in memory.

        llm = LLM("demo", dtype="w8a8")
        print(llm.chat([{"role": "user", "content": "Hello!"}]).text)

    `model` is a folder, a GGUF file, a Hugging Face hub id, or "demo". Keywords are the fields of Settings.
    `progress(done, total)` is called with bytes while weights are read. Raises ModelNotFound, UnsupportedModel,
    CheckpointError, TokenizerError, OutOfMemory or SettingsError. Not thread-safe.
    """

    def __init__(self, model: str | Path, *, progress: Progress | None = None, **settings: Any) -> None:
        asked = Settings.of(settings)
        if asked.draft is not None:
            check_draft(model, asked)
        loaded = load_model(model, asked, progress)
        self.start(loaded, None if asked.draft is None else load_draft(asked, loaded, progress))

    def start(self, loaded: Loaded, draft: Loaded | None) -> None:
        """Make the engine of a model in memory."""
        self.loaded = loaded
        self.draft = draft
        architecture = self.loaded.model.architecture
        chosen = self.loaded.settings
        limits = EngineLimits(
            context=chosen.context,
            step_tokens=chosen.step_tokens,
            max_sequences=chosen.max_sequences,
            vocabulary=architecture.vocabulary,
            prefix_cache=chosen.prefix_cache,
            step_s=chosen.max_step_ms / 1000,
            checks=os.environ.get("TWOFOLD_CHECK") == "1",
        )
        self.tokenizer = self.loaded.tokenizer
        self.engine = Engine(
            self.loaded.ops,
            self.loaded.forward,
            architecture.cache_shape,
            self.loaded.layout,
            limits,
            build_guesser(self.loaded, self.draft),
        )

    def with_kv_cache(self, kv_cache_dtype: KvDtype) -> LLM:
        """The same weights with a cache of their own that keeps keys and values in another way; no draft model.

        Raises SettingsError for a model on several ranks or with experts in the host's memory.
        """
        if self.loaded.ranks is not None:
            raise SettingsError("a model on several ranks has one cache; leave out --ranks to compare two")
        if self.loaded.settings.expert_cache:
            raise SettingsError("a model with experts in the host's memory has one cache; leave out --expert-cache")
        settings = replace(self.loaded.settings, kv_cache_dtype=kv_cache_dtype)
        other = LLM.__new__(LLM)
        other.start(replace(self.loaded, settings=settings, ops=build_ops(settings), kv_reason="as asked for"), None)
        return other

    def settle(self) -> None:
        """Wait until weights that are used where a packed file has them lie in this process's own memory.

        Answers are the same before, decoding is slower. Raises OutOfMemory when they could not be copied: then they go
        on being used where the file has them.
        """
        packer = self.loaded.ops.packer
        if isinstance(packer, MappingPacker):
            packer.settle()

    def close(self) -> None:
        """End the processes that share the model (`ranks`); without them nothing is to be done."""
        if self.loaded.ranks is not None:
            self.loaded.ranks.close()

    def generate(self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | None = None) -> list[Completion]:
        """Continue each prompt (text, or token ids); all of them share the batches of the engine."""
        is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
        many: Sequence[Prompt] = [prompts] if is_one else prompts  # type: ignore[assignment,list-item]
        encoded = [self.encode(prompt) for prompt in many]
        completions = [Completion(prompt_tokens=len(ids)) for ids in encoded]
        for _ in self.serve(encoded, params, completions):
            pass
        return completions

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, completion: Completion | None = None
    ) -> Iterator[Piece]:
        """Continue one prompt piece by piece; leaving the loop early cancels the rest.

        A `completion` handed in is filled along the way.
        """
        ids = self.encode(prompt)
        record = completion or Completion(prompt_tokens=0)
        record.prompt_tokens = len(ids)
        for _, piece in self.serve([ids], params, [record]):
            yield piece

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Completion:
        """Answer a conversation of {"role": ..., "content": ...} messages."""
        return self.generate([self.encode_messages(messages, tools)], params)[0]

    def chat_stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        completion: Completion | None = None,
    ) -> Iterator[Piece]:
        """Answer a conversation piece by piece."""
        return self.stream(self.encode_messages(messages, tools), params, completion)

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after every token, float32 [T, V]."""
        return np.concatenate(list(self.engine.score(token_ids)))

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a text, with the model's begin token; ids pass through. Special tokens in text stay text."""
        return self.tokenizer.encode(prompt, bos=True) if isinstance(prompt, str) else list(prompt)

    def encode_messages(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Token ids of a conversation up to where the assistant's answer begins."""
        return encode_chat(self.tokenizer, self.loaded.template, messages, tools=tools)

    def serve(
        self, prompts: Sequence[list[int]], params: SamplingParams | None, completions: Sequence[Completion]
    ) -> Iterator[tuple[int, Piece]]:
        """Run prompts to their ends, filling `completions`; yields (index, piece) in the order tokens appear."""
        chosen = (params or SamplingParams()).over(self.loaded.model.defaults)
        bad = (*chosen.bad_sequences, *spellings(self.tokenizer, chosen.bad_words))
        chosen = replace(chosen, bad_sequences=bad)
        answers: dict[int, Answer] = {}
        try:
            for index, ids in enumerate(prompts):
                request = self.engine.add(ids, chosen, self.loaded.model.eos_ids)
                stream = TextStream(self.tokenizer, stop=chosen.stop)
                answers[request.id] = Answer(index, completions[index], stream, chosen.max_tokens == 0)
            while not self.engine.is_idle:
                events = self.engine.step()
                for request_id in {event.request_id for event in events}:
                    answers[request_id].completion.steps += 1
                for event in events:
                    answer = answers[event.request_id]
                    if answer.completion.finish:
                        continue  # a stop string ended it within this very step
                    piece = answer.take(event)
                    if piece.finish and event.finish is None:
                        self.engine.cancel(event.request_id)
                    yield answer.index, piece
        finally:
            for request_id in answers:
                self.engine.cancel(request_id)


class Answer:
    """One answer in the making: token events in, text pieces out."""

    def __init__(self, index: int, completion: Completion, stream: TextStream, is_empty: bool) -> None:
        self.index = index
        self.is_empty = is_empty  # max_tokens is 0: only the prompt matters
        self.completion = completion
        self.stream = stream
        self.started = time.perf_counter()

    def take(self, event: Event) -> Piece:
        """Add one token; a stop string ends the answer before the engine would."""
        completion, now = self.completion, time.perf_counter() - self.started
        completion.prompt_scores = completion.prompt_scores or event.scores
        if self.is_empty:
            completion.first_token_s, completion.finish = now, "length"
            return Piece(text="", finish="length")
        if completion.tokens:
            completion.decode_s = now - completion.first_token_s
        else:
            completion.first_token_s = now
        completion.tokens.append(event.drawn)
        text, finish = "", event.finish
        if finish != "stop":
            text = self.stream.feed(event.drawn.token)
            if self.stream.stopped:
                finish = "stop"
        if finish and not self.stream.stopped:
            text += self.stream.flush()
            if self.stream.stopped:
                finish = "stop"
        completion.text += text
        completion.finish = finish
        return Piece(text=text, tokens=(event.drawn,), finish=finish)
