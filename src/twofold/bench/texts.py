"""Texts to judge a model on: which token ids, and which of them count."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twofold.api import LLM
from twofold.demo import data_folder
from twofold.errors import SettingsError
from twofold.text.chat import encode_chat

Mask = npt.NDArray[np.bool_]
Row = dict[str, Any]

WINDOW = 2048
"""Most tokens of a plain text that are judged in one stretch."""
TURNS = (
    ("<|header_start|>", "<|header_end|>", "<|eot|>"),
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
"""How Llama 4 and Llama 3 mark a turn: header begins, header ends, turn ends."""


def read_lines(path: Path) -> list[Row]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def heldout_rows() -> list[Row]:
    """The demo model's held-out conversations and prose, which ship with the package."""
    return read_lines(data_folder() / "heldout.jsonl")


def read_rows(path: Path | None) -> list[Row]:
    """Rows of a .jsonl file ({"text"} or {"messages"}), one row of any other text file, or the shipped ones."""
    if path is None:
        return heldout_rows()
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


def encode_rows(llm: LLM, rows: Sequence[Row]) -> Iterator[tuple[list[int], Mask]]:
    """Token ids of each stretch and which of them count.

    Of a conversation the assistant's words count, its end included; of prose everything but the first token. Prose is
    cut into stretches of WINDOW tokens (or the context where that is shorter). Conversations longer than the context
    raise RequestTooLong when they are run.
    """
    window = min(WINDOW, llm.loaded.settings.context)
    for row in rows:
        if "messages" in row:
            ids = encode_chat(llm.tokenizer, llm.loaded.template, row["messages"], add_generation_prompt=False)
            yield ids, answer_mask(llm, ids)
            continue
        ids = llm.encode(row["text"])
        for start in range(0, len(ids) - 1, window):
            part = ids[start : start + window]
            yield part, np.arange(len(part)) > 0


def answer_mask(llm: LLM, ids: Sequence[int]) -> Mask:
    """True where a token belongs to an assistant's turn, its end included.

    A tokenizer without the turn marks of Llama 3 or 4 tells no turns apart: then every token but the first counts.
    """
    special = llm.tokenizer.special_ids
    marks = next((names for names in TURNS if all(name in special for name in names)), None)
    if marks is None:
        return np.arange(len(ids)) > 0
    start, end, stop = (special[name] for name in marks)
    header = [start, *llm.tokenizer.encode("assistant")]
    mask = np.zeros(len(ids), bool)
    inside = False
    for position, token in enumerate(ids):
        mask[position] = inside
        if token == end and list(ids[position - len(header) : position]) == header:
            inside = True
        elif token == stop:
            inside = False
    return mask
