"""Texts to judge or calibrate a model on: which token ids, and which of them count."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from twofold.errors import SettingsError
from twofold.text.chat import ChatTemplate, encode_chat
from twofold.text.tokenizer import Tokenizer

Row = dict[str, Any]
"""{"text": ...} or {"messages": [...]}."""
Text = tuple[list[int], list[bool]]
"""Token ids of a stretch of text, and which of them count."""

TURNS = (
    ("<|header_start|>", "<|header_end|>", "<|eot|>"),
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
"""How Llama 4 and Llama 3 mark a turn: header begins, header ends, turn ends."""


def read_lines(path: Path) -> list[Row]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def read_rows(path: Path) -> list[Row]:
    """Rows of a .jsonl file, or one row with the whole of any other text file; SettingsError when it is neither."""
    try:
        if path.suffix != ".jsonl":
            return [{"text": path.read_text(encoding="utf-8")}]
        rows = read_lines(path)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be used as a text: {error}. UTF-8 text or JSON lines are needed") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not ("text" in row or "messages" in row):
            raise SettingsError(f"{path}, line {number}: an object with text or messages was expected")
    return rows


def encode_rows(tokenizer: Tokenizer, template: ChatTemplate, rows: Iterable[Row], window: int) -> Iterator[Text]:
    """Token ids of each stretch and which of them count.

    Of a conversation the assistant's words count, its end included; of prose everything but the first token. Prose is
    cut into stretches of at most `window` tokens; conversations stay whole.
    """
    for row in rows:
        if "messages" in row:
            ids = encode_chat(tokenizer, template, row["messages"], add_generation_prompt=False)
            yield ids, answer_mask(tokenizer, ids)
            continue
        ids = tokenizer.encode(row["text"], bos=True)
        for start in range(0, len(ids) - 1, window):
            part = ids[start : start + window]
            yield part, [index > 0 for index in range(len(part))]


def answer_mask(tokenizer: Tokenizer, ids: Sequence[int]) -> list[bool]:
    """True where a token belongs to an assistant's turn, its end included.

    A tokenizer without the turn marks of Llama 3 or 4 tells no turns apart: then every token but the first counts.
    """
    special = tokenizer.special_ids
    marks = next((names for names in TURNS if all(name in special for name in names)), None)
    if marks is None:
        return [index > 0 for index in range(len(ids))]
    start, end, stop = (special[name] for name in marks)
    header = [start, *tokenizer.encode("assistant")]
    mask = [False] * len(ids)
    inside = False
    for position, token in enumerate(ids):
        mask[position] = inside
        if token == end and list(ids[position - len(header) : position]) == header:
            inside = True
        elif token == stop:
            inside = False
    return mask
