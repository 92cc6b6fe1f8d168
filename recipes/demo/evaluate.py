"""Judges an exported checkpoint on the held-out data, with the training network in float32.

    python -m recipes.demo.evaluate src/twofold/demo

Answers are decoded greedily behind the chat template's prompt, and right only if they are equal to the letter.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional as F

from recipes.demo.data import Encoder
from recipes.demo.facts import ANSWER, UNKNOWN
from recipes.demo.network import Network, Shape
from recipes.demo.skills import Message

BATCH = 16
LONGEST_ANSWER = 64


class Judge:
    """A checkpoint that answers."""

    def __init__(self, folder: Path) -> None:
        self.encoder = Encoder(Tokenizer.from_file(str(folder / "tokenizer.json")), seed=0)
        self.network = Network(Shape())
        weights = load_file(folder / "model.safetensors")
        self.network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})

    def prompt(self, messages: list[Message]) -> list[int]:
        """Ids of the conversation and of the header that asks for an answer."""
        ids, _ = self.encoder.conversation(messages)
        return ids + self.encoder.headers["assistant"] + self.encoder.encode("\n\n")

    @torch.no_grad()
    def answers(self, prompts: list[list[int]]) -> list[str]:
        """Greedy answers; every step computes the whole rows anew, padded behind their ends."""
        rows, done = [list(prompt) for prompt in prompts], [False] * len(prompts)
        for _ in range(LONGEST_ANSWER):
            ends = torch.tensor([len(row) - 1 for row in rows])
            hidden = self.network(self.padded(rows))[torch.arange(len(rows)), ends]
            for index, chosen in enumerate(self.network.lm_head(hidden).argmax(-1).tolist()):
                done[index] = done[index] or chosen == self.encoder.ids["eot"]
                if not done[index]:
                    rows[index].append(chosen)
            if all(done):
                break
        decode = self.encoder.tokenizer.decode
        return [decode(row[len(prompt) :]) for row, prompt in zip(rows, prompts, strict=True)]

    def padded(self, rows: list[list[int]]) -> torch.Tensor:
        """Rows of equal length, a multiple of the chunk where it is longer than one."""
        length, chunk = max(len(row) for row in rows), self.network.shape.chunk
        length = length if length <= chunk else -(-length // chunk) * chunk
        return torch.tensor([row + [self.encoder.ids["end_of_text"]] * (length - len(row)) for row in rows])

    @torch.no_grad()
    def losses(self, ids: list[int], weights: list[float]) -> torch.Tensor:
        """Nats of each token that weighs 1: an assistant's, or prose."""
        inputs = self.padded([ids])
        logits = self.network.lm_head(self.network(inputs))[0, : len(ids) - 1]
        errors = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        return errors[torch.tensor(weights[1:]) == 1.0]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects, one per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_length(rows: Iterable[tuple[list[int], Any]]) -> Iterator[list[tuple[list[int], Any]]]:
    """Batches of prompts that are about equally long."""
    ordered = sorted(rows, key=lambda row: len(row[0]))
    for start in range(0, len(ordered), BATCH):
        yield ordered[start : start + BATCH]


def groups(judge: Judge, item: dict[str, Any], prompt: list[int]) -> list[str]:
    """What a question counts for: its category, the length of the prompt, whether the value is in an earlier chunk."""
    chunk = judge.network.shape.chunk
    names = ["all", item["category"], f"prompt of {len(prompt) // chunk * chunk}+ tokens"]
    if item["answer"] != UNKNOWN:
        value = item["answer"].removeprefix(ANSWER.format(v="")[:-1]).removesuffix(".")
        before = judge.encoder.encode(item["messages"][0]["content"].split(f" {value}")[0])
        distance = len(prompt) - len(before)
        names.append(
            "value in an earlier chunk" if len(before) // chunk < len(prompt) // chunk else "value in the last chunk"
        )
        names.append(f"value {distance // 128 * 128}+ tokens back")
    return names


def exact_match(judge: Judge, items: list[dict[str, Any]], wrong: Path | None) -> dict[str, str]:
    """Share of right answers per group, as "share (count)"."""
    right: dict[str, list[bool]] = defaultdict(list)
    mistakes = []
    for batch in by_length((judge.prompt(item["messages"]), item) for item in items):
        for (prompt, item), answer in zip(batch, judge.answers([prompt for prompt, _ in batch]), strict=True):
            for group in groups(judge, item, prompt):
                right[group].append(answer == item["answer"])
            if answer != item["answer"]:
                mistakes.append({"question": item["messages"][-1]["content"], "right": item["answer"], "found": answer})
    if wrong is not None:
        wrong.write_text("".join(json.dumps(mistake) + "\n" for mistake in mistakes), encoding="utf-8")
    return {group: f"{sum(found) / len(found):.3f} ({len(found)})" for group, found in sorted(right.items())}


def exact_turns(judge: Judge, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Share of an assistant's turns repeated to the letter per skill, each behind the right turns before it."""
    right: dict[str, list[bool]] = defaultdict(list)
    turns = [(row["skill"], row["messages"][: index + 1]) for row in rows if "messages" in row
             for index, message in enumerate(row["messages"]) if message["role"] == "assistant"]  # fmt: skip
    prompts = ((judge.prompt(messages[:-1]), (skill, messages[-1]["content"])) for skill, messages in turns)
    for batch in by_length(prompts):
        for (_, (skill, expected)), answer in zip(batch, judge.answers([ids for ids, _ in batch]), strict=True):
            right[skill].append(answer == expected)
    return {skill: f"{sum(found) / len(found):.3f} ({len(found)})" for skill, found in right.items()}


def losses_and_load(judge: Judge, rows: list[dict[str, Any]]) -> tuple[dict[str, float], list[list[float]]]:
    """Nats per answer or prose token per skill, and each expert's load per layer in shares of the fair one."""
    losses: dict[str, list[torch.Tensor]] = defaultdict(list)
    load, tokens = torch.zeros(judge.network.load.shape), 0
    for row in rows:
        if "text" in row:
            ids = [judge.encoder.ids["begin_of_text"], *judge.encoder.encode(row["text"])]
            weights = [0.0] + [1.0] * (len(ids) - 1)
        else:
            ids, weights = judge.encoder.conversation(row["messages"])
        chunk = judge.network.shape.chunk  # whole chunks only: padding would count as load
        ids, weights = (part if len(ids) <= chunk else part[: len(ids) // chunk * chunk] for part in (ids, weights))
        losses[row["skill"]].append(judge.losses(ids, weights))
        load, tokens = load + judge.network.load * len(ids), tokens + len(ids)
    means = {skill: round(float(torch.cat(found).mean()), 4) for skill, found in losses.items()}
    return means, (load / tokens * judge.network.shape.experts).tolist()


def main() -> None:
    """Evaluate from the command line."""
    parser = argparse.ArgumentParser(description="Judge the exported demo model.")
    parser.add_argument("folder", type=Path, help="holds model/, evaluation.jsonl and heldout.jsonl")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--wrong", type=Path, help="where to write the wrong answers")
    arguments = parser.parse_args()
    judge = Judge(arguments.folder / "model")
    rows = read_lines(arguments.folder / "heldout.jsonl")
    losses, load = losses_and_load(judge, rows)
    print("held-out loss, nats per token:", losses)
    for layer, shares in enumerate(load):
        print(f"expert load of layer {layer}, 1 is fair:", " ".join(f"{share:.2f}" for share in shares))
    print("right turns:", exact_turns(judge, rows))
    items = read_lines(arguments.folder / "evaluation.jsonl")[: arguments.questions]
    for group, share in exact_match(judge, items, arguments.wrong).items():
        print(f"exact match, {group}: {share}")


if __name__ == "__main__":
    main()
