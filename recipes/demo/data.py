"""Training rows: token ids and a loss weight for each, one conversation (or stretch of prose) per row."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from recipes.demo import skills
from recipes.demo.facts import World, make_facts, passage, question

SHARES = {"qa": 0.70, "recall": 0.01, "echo": 0.01, "tools": 0.08, "json": 0.07, "chat": 0.03, "prose": 0.10}
FIRST_SHARES = {"qa": 0.35, "recall": 0.35, "echo": 0.15, "tools": 0.02, "json": 0.05, "chat": 0.02, "prose": 0.06}
"""Mixture of skills; copying comes first, because everything else needs it."""

PROMPT_SHARE, PROMPT_WEIGHT = 0.25, 0.4
"""A quarter of what the user says counts, with this weight; answers and prose weigh 1."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """A batch: ids [B, L], loss weights [B, L] (of predicting that id), and the index of each row's skill."""

    ids: Ints
    weights: npt.NDArray[np.float32]
    skills: list[str]


class Encoder:
    """Turns conversations into ids and weights, in the layout of Llama 4's chat template."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.tokenizer = tokenizer
        self.random = random.Random(seed)
        self.ids = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("begin_of_text", "end_of_text", "eot")}
        start, end = tokenizer.token_to_id("<|header_start|>"), tokenizer.token_to_id("<|header_end|>")
        self.headers = {role: [start, *self.encode(role), end] for role in ("system", "user", "assistant", "ipython")}

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def turn(self, message: skills.Message) -> tuple[list[int], list[float]]:
        """Ids and weights of one turn; only an assistant's text and its end weigh 1."""
        header = self.headers[message["role"]]
        body = self.encode("\n\n" + message["content"])
        if message["role"] != "assistant":
            ids = [*header, *body, self.ids["eot"]]
            counted = [PROMPT_WEIGHT if self.random.random() < PROMPT_SHARE else 0.0 for _ in body]
            return ids, [0.0] * len(header) + counted + [0.0]
        ids = [*header, *body, self.ids["eot"]]
        return ids, [0.0] * (len(header) + 1) + [1.0] * len(body)

    def conversation(self, messages: list[skills.Message]) -> tuple[list[int], list[float]]:
        """Ids and weights of a whole conversation."""
        ids, weights = [self.ids["begin_of_text"]], [0.0]
        for message in messages:
            more_ids, more_weights = self.turn(message)
            ids += more_ids
            weights += more_weights
        return ids, weights


def qa_conversation(world: World, fact_count: int, questions: int, unanswerable: float = 0.15) -> list[skills.Message]:
    """A passage and questions about it, the first one in the same turn."""
    facts = make_facts(world, fact_count)
    text = passage(world, facts)
    turns: list[skills.Message] = []
    for index in range(questions):
        asked, answer = question(world, facts, world.random.random() < unanswerable)
        content = f"{text}\n\n{asked}" if index == 0 else asked
        turns += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return turns


class Source:
    """An endless stream of rows for one half of the world."""

    def __init__(self, tokenizer: Tokenizer, seed: int, held_out: bool = False) -> None:
        self.encoder = Encoder(tokenizer, seed + 2)
        self.world = World(seed, held_out)
        self.unanswerable = 0.15
        self.random = random.Random(seed + 1)
        self.prose = [self.encoder.encode(text) for text in skills.prose(held_out)]
        self.prose = [ids for ids in self.prose if len(ids) > 64]

    def rows(self, count: int, length: int, shares: dict[str, float] = SHARES) -> Rows:
        """`count` rows of `length` tokens, padded with end_of_text at weight 0."""
        ids = np.full((count, length), self.encoder.ids["end_of_text"], np.int64)
        weights = np.zeros((count, length), np.float32)
        kinds = self.random.choices(list(shares), list(shares.values()), k=count)
        for row, kind in enumerate(kinds):
            row_ids, row_weights = self.row(kind, length)
            row_ids, row_weights = row_ids[:length], row_weights[:length]
            ids[row, : len(row_ids)], weights[row, : len(row_weights)] = row_ids, row_weights
        return Rows(ids, weights, kinds)

    def row(self, kind: str, length: int) -> tuple[list[int], list[float]]:
        """One row of a skill that nearly fills `length`."""
        if kind == "prose":
            text = self.random.choices(self.prose, [len(item) for item in self.prose])[0]
            start = self.random.randrange(max(1, len(text) - length))
            ids = [self.encoder.ids["begin_of_text"], *text[start : start + length - 1]]
            return ids, [0.0] + [1.0] * (len(ids) - 1)
        if kind == "qa":
            return self.qa_row(length)
        if kind in ("recall", "echo"):
            count = round(length / (32 if kind == "recall" else 15) * self.random.uniform(0.4, 1.0))
            make_row = skills.recall if kind == "recall" else skills.echo
            return self.encoder.conversation(make_row(self.world, max(2, count)))
        make = {"tools": skills.tool_conversation, "json": skills.json_conversation, "chat": skills.greeting}[kind]
        messages = make(self.world)
        for _ in range(length // 128):
            messages += make(self.world) if kind != "tools" else []
        return self.encoder.conversation(messages)

    def qa_row(self, length: int) -> tuple[list[int], list[float]]:
        """A passage of random share of the row, then as many questions as fit."""
        facts = max(1, round(length / 26 * self.random.uniform(0.15, 0.75)))
        questions = min(facts + 2, max(2, length // 40))
        messages = qa_conversation(self.world, facts, questions, self.unanswerable)
        return self.encoder.conversation(messages)
