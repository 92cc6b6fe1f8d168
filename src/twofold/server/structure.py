"""Answers of a given form: JSON schemas, regular expressions, choices and grammars, through llguidance."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from functools import cached_property
from typing import Any

import anyio
import llguidance
from llguidance import LLMatcher, LLTokenizer

from twofold.errors import GrammarFailed
from twofold.server.problems import Problem
from twofold.server.schema import ChatRequest, CompletionRequest, NamedTool, StructuredOutputs, Tool
from twofold.text.tokenizer import Tokenizer

JSON_OPTIONS: Any = {"whitespace_pattern": r"[ \n]{1,20}"}
"""Bounded: a model that loves white space would go on with it for ever."""
SIZE_LIMIT = 256 * 2**10
DEPTH_LIMIT = 64
CHOICES_LIMIT = 4096
COMPILE_S = 10.0
ONLY_ONE = ("json", "regex", "choice", "grammar", "json_object")


class Vocabulary:
    """What llguidance asks a tokenizer for."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, eos_id: int) -> None:
        self.eos_token_id = eos_id
        self.bos_token_id = tokenizer.bos_id
        ids = range(tokenizer.vocabulary_size)
        self.special_token_ids = [token for token in ids if tokenizer.is_special(token)]
        self.tokens = [tokenizer.token_bytes(token) or b"<unused>" for token in ids]
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids of a text."""
        return self._tokenizer.encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


class Matcher:
    """An engine.request.Constraint."""

    def __init__(self, matcher: LLMatcher, eos_ids: Collection[int]) -> None:
        self._matcher = matcher
        self._eos_ids = frozenset(eos_ids)

    def allowed(self) -> bytes:
        """Bits of the tokens that may come next."""
        bits: bytes = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            reason = self._matcher.get_error().splitlines()[0][:300]  # then comes the state of the parser
            raise GrammarFailed(f"the form asked for cannot be gone on with: {reason}. Make it simpler.")
        return bits

    def accept(self, token: int) -> None:
        """One token on."""
        if token not in self._eos_ids:
            self._matcher.consume_token(token)

    def copy(self) -> Matcher:
        """For another answer to the same request."""
        return Matcher(self._matcher.deep_copy(), self._eos_ids)


class Grammars:
    """Compiles the forms that requests ask for."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: Collection[int]) -> None:
        self._source = tokenizer
        self._eos_ids = list(eos_ids)
        self._limiter = anyio.CapacityLimiter(2)

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        vocabulary = Vocabulary(self._source, self._eos_ids[0])
        return LLTokenizer(llguidance.TokenizerWrapper(vocabulary), eos_token=self._eos_ids)

    async def compile(self, grammar: str) -> Matcher:
        """A matcher at its beginning. Raises Problem 400 for a grammar that is wrong or takes too long."""
        if not self._eos_ids:
            raise Problem(400, "this model has no end token, which structured answers need", param="response_format")
        try:
            async with asyncio.timeout(COMPILE_S):
                return await anyio.to_thread.run_sync(
                    self._compile, grammar, limiter=self._limiter, abandon_on_cancel=True
                )
        except TimeoutError as error:
            raise Problem(
                400, f"the form asked for took longer than {COMPILE_S:g} s to compile; make it simpler",
                param="response_format", code="grammar_too_complex",
            ) from error  # fmt: skip

    def _compile(self, grammar: str) -> Matcher:
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        can_begin = not matcher.is_error() and any(matcher.compute_bitmask())
        if matcher.is_error() or not can_begin:
            why = matcher.get_error()[:500] or "no answer has it"
            raise Problem(
                400, f"the form asked for cannot be used: {why}",
                param="response_format", code="invalid_grammar",
            )  # fmt: skip
        return Matcher(matcher, self._eos_ids)


def grammar_of(asked: ChatRequest | CompletionRequest) -> str | None:
    """The grammar a request asks for in any of its fields, None for free text. Raises Problem 400."""
    found = [*formats(asked), *structured(asked.structured_outputs), *guided(asked)]
    if isinstance(asked, ChatRequest) and asked.tools and asked.tool_choice not in (None, "auto", "none"):
        found.append(calls_grammar(asked.tools, asked.tool_choice))
    if len(found) > 1:
        raise Problem(400, "the request asks for several forms at once; give one", param="response_format")
    if not found:
        return None
    if isinstance(asked, ChatRequest) and asked.tools and asked.tool_choice in (None, "auto"):
        raise Problem(400, "a form together with tools needs tool_choice: none", param="tool_choice")
    if asked.ignore_eos or asked.min_tokens:
        raise Problem(400, "ignore_eos and min_tokens contradict a form that ends by itself", param="ignore_eos")
    return found[0]


def formats(asked: ChatRequest | CompletionRequest) -> list[str]:
    """response_format."""
    form = asked.response_format
    if form is None or form.type == "text":
        return []
    if form.type == "json_object":
        return [json_grammar({"type": "object"})]
    schema = (form.json_schema or {}).get("schema")
    if not isinstance(schema, dict):
        raise Problem(400, "json_schema needs a schema", param="response_format.json_schema.schema")
    return [json_grammar(schema)]


def structured(asked: StructuredOutputs | None) -> list[str]:
    """structured_outputs."""
    if asked is None:
        return []
    given = [name for name in ONLY_ONE if getattr(asked, name)]
    if len(given) != 1:
        raise Problem(400, f"give exactly one of {', '.join(ONLY_ONE)}", param="structured_outputs")
    if given == ["json_object"]:
        return [json_grammar({"type": "object"})]
    return [one_grammar(given[0], getattr(asked, given[0]))]


def guided(asked: ChatRequest | CompletionRequest) -> list[str]:
    """The older guided_ fields."""
    kinds = {kind: getattr(asked, f"guided_{kind}") for kind in ("json", "regex", "choice", "grammar")}
    return [one_grammar(kind, value) for kind, value in kinds.items() if value is not None]


def one_grammar(kind: str, value: Any) -> str:
    """llguidance's grammar for one kind of form. Raises Problem 400."""
    if kind == "json":
        return json_grammar(value)
    if kind == "choice":
        if not value or len(value) > CHOICES_LIMIT or not all(value):
            raise Problem(400, f"choice needs 1 to {CHOICES_LIMIT} texts that are not empty", param="choice")
        value = "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in value)
        kind = "grammar"
    if len(value) > SIZE_LIMIT:
        raise Problem(400, f"{kind} is longer than {SIZE_LIMIT} characters", param=kind)
    make = LLMatcher.grammar_from_regex if kind == "regex" else LLMatcher.grammar_from_lark
    grammar: str = make(value)
    return grammar


def json_grammar(schema: dict[str, Any] | str) -> str:
    """The grammar of a JSON schema. Raises Problem 400 when it is too large, too deep or no JSON."""
    try:
        parsed = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(parsed)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the JSON schema is no JSON: {error}", param="response_format") from error
    if len(text) > SIZE_LIMIT or depth(parsed) > DEPTH_LIMIT:
        raise Problem(
            400, f"the JSON schema has {len(text)} characters and {depth(parsed)} levels; at most {SIZE_LIMIT} and "
            f"{DEPTH_LIMIT} are allowed", param="response_format",
        )  # fmt: skip
    grammar: str = LLMatcher.grammar_from_json_schema(text, overrides=JSON_OPTIONS)
    return grammar


def depth(value: Any) -> int:
    """Levels of a JSON value, counted level by level."""
    levels, level = 0, [value]
    while level:
        levels += 1
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return levels


def calls_grammar(tools: list[Tool], choice: str | NamedTool) -> str:
    """A call of one of the tools, or of the one that is named. Raises Problem 400 for a name that is not there."""
    named = choice.function.name if isinstance(choice, NamedTool) else None
    wanted = [tool.function for tool in tools if named in (None, tool.function.name)]
    if not wanted:
        raise Problem(400, "tool_choice names a tool that is not in tools", param="tool_choice")
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "parameters": tool.parameters or {"type": "object"}},
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for tool in wanted
    ]
    return json_grammar(calls[0] if len(calls) == 1 else {"anyOf": calls})
