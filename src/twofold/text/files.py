"""The tokenizer's files in a model folder: what they must hold, and how they may contradict each other.

tokenizer.json (else tokenizer.model) is what tokenises; tokenizer_config.json and special_tokens_map.json name the
special tokens and may add some.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models

from twofold.errors import TokenizerError
from twofold.text.ranks import build, family_of, read_ranks

AGAIN = "Download the file again, or copy it from the model's repository."
PANIC = "PanicException"
"""What a panic of Rust code is called; it derives from BaseException, and no module gives the class out."""
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")
USUAL_NAMES = {"bos_token": ("<|begin_of_text|>", "<s>"), "eos_token": ("<|end_of_text|>", "</s>")}


@dataclass(frozen=True, kw_only=True)
class Added:
    """A token that is matched as a literal before the vocabulary is looked at; l/rstrip: it takes spaces beside it."""

    id: int
    is_special: bool
    lstrip: bool = False
    rstrip: bool = False


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is no such file. Raises TokenizerError."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path.name} is no JSON: {error}. {AGAIN}") from error
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(f"{path.name} holds half of a surrogate pair, which is no text. {AGAIN}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path.name} holds a {type(value).__name__}; an object was expected. {AGAIN}")
    return value


def read_core(folder: Path) -> tokenizers.Tokenizer:
    """The BPE of tokenizer.json, else of tokenizer.model. Raises TokenizerError."""
    path = folder / "tokenizer.json"
    if path.exists():
        core = parse_core(path)
        if not isinstance(core.model, models.BPE):
            raise TokenizerError(
                f"tokenizer.json holds a {type(core.model).__name__} model; BPE was expected, which every Llama uses."
            )
        core.model.dropout = None  # a regulariser of training: it would make ids random
        return core
    if (folder / "tokenizer.model").exists():
        ranks = read_ranks(folder / "tokenizer.model")
        return build(ranks, family_of(ranks, read_object(folder / "config.json")))
    raise TokenizerError(f"{folder} has neither tokenizer.json nor tokenizer.model. Copy one from the hub.")


def parse_core(path: Path) -> tokenizers.Tokenizer:
    """tokenizer.json through the tokenizers package, which panics on some damages: that is an exception of its own."""
    try:
        return tokenizers.Tokenizer.from_buffer(path.read_bytes())
    except BaseException as error:
        if not isinstance(error, OSError | ValueError) and type(error).__name__ != PANIC:
            raise
        raise TokenizerError(f"tokenizer.json is damaged: {error}. {AGAIN}") from error


def read_decoding(core: tokenizers.Tokenizer) -> tuple[bool, bool]:
    """(whether tokens are written in the byte alphabet, whether decoding strips one leading space)."""
    state = json.loads(core.decoder.__getstate__()) if core.decoder is not None else {}
    steps = state.get("decoders", [state])
    kinds = {step.get("type") for step in steps}
    if "ByteLevel" in kinds:
        return True, False
    if kinds & {"ByteFallback", "Metaspace"}:
        strips = any(step.get("type") == "Strip" and step.get("start") for step in steps)
        metaspace = any(step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never" for step in steps)
        return False, strips or metaspace
    raise TokenizerError(
        f"tokenizer.json decodes with {sorted(map(str, kinds))}; ByteLevel (Llama 3, 4) or ByteFallback (Llama 2) was "
        f"expected. {AGAIN}"
    )


def read_added(core: tokenizers.Tokenizer, config: Mapping[str, Any]) -> dict[str, Added]:
    """Added tokens of tokenizer.json, and those only added_tokens_decoder of tokenizer_config.json names."""
    literals = {
        token.content: Added(id=number, is_special=token.special, lstrip=token.lstrip, rstrip=token.rstrip)
        for number, token in core.get_added_tokens_decoder().items()
    }
    entries = config.get("added_tokens_decoder") or {}
    try:
        wanted = {str(entry["content"]): (int(number), bool(entry.get("special"))) for number, entry in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"tokenizer_config.json: added_tokens_decoder is damaged ({error!r}). {AGAIN}") from error
    for text, (number, is_special) in wanted.items():
        known = core.token_to_id(text)
        there = core.id_to_token(number) if 0 <= number < 2**32 else ""
        if known not in (None, number) or there not in (None, text) or not text:
            raise TokenizerError(
                f"tokenizer_config.json says token {number} is {text!r}; tokenizer.json has {there!r} there and "
                f"{text!r} at {known}. Use files of one and the same model."
            )
        literals.setdefault(text, Added(id=number, is_special=is_special))
    return literals


def find_names(
    literals: Mapping[str, Added], core: tokenizers.Tokenizer, sources: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Added], dict[str, str]]:
    """The literals with every named token marked special, and the texts of bos_token, eos_token and so on.

    The first source that has a name counts; where none has, the usual names do.
    """
    marked, names = dict(literals), {}
    for name in NAMES:
        text = stated_name(name, sources, literals)
        if text is None:
            continue
        number = core.token_to_id(text)
        if text in marked:
            marked[text] = replace(marked[text], is_special=True)
        elif number is not None:
            marked[text] = Added(id=number, is_special=True)
        elif name in USUAL_NAMES:  # a pad or unk token that the vocabulary lacks is never needed here
            raise TokenizerError(f"{name} is {text!r}, which is no token of tokenizer.json. {AGAIN}")
        if text in marked:
            names[name] = text
    return marked, names


def stated_name(name: str, sources: Sequence[Mapping[str, Any]], literals: Mapping[str, Added]) -> str | None:
    """Text of a named token, None where there is none. Raises TokenizerError when it is no text."""
    stated = [source[name] for source in sources if name in source]
    if not stated:
        return next((usual for usual in USUAL_NAMES.get(name, ()) if usual in literals), None)
    values = [value.get("content") if isinstance(value, dict) else value for value in stated]
    text = next((value for value in values if value), None)
    if text is not None and not isinstance(text, str):
        raise TokenizerError(f"{name} is {text!r}; the text of a token was expected. {AGAIN}")
    return text
