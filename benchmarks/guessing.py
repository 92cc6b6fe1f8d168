"""What guessing gains and costs: look-up and draft models, on three kinds of text.

python -m benchmarks.guessing            the demo model, and the same with silent layers, on each draft model
python -m benchmarks.guessing --quick    fewer prompts, nothing kept

A silent layer does all of its work and adds nothing, so the deep network says what the demo model says at several
times the cost: what a draft model is for, with the demo model itself as a draft that is nearly always right.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.results import write_result
from tests.weights.make import write_part
from twofold import LLM, SamplingParams
from twofold.bench.guessing import Prompts, measure_guessing, usual_ways
from twofold.bench.quality import read_lines
from twofold.bench.speed import read_and_decode
from twofold.demo import data_folder, model_folder
from twofold.engine.guess import Guesser
from twofold.engine.policy import Choice, GuessPolicy, Source
from twofold.loading import pack_model

PARAMS = SamplingParams(temperature=0.0, max_tokens=64)
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=11, max_tokens=64)
ROW_STEPS = 24


class Ordered(GuessPolicy):
    """The usual policy, but sources are asked in a fixed order."""

    order: tuple[Source, ...]

    def choices(self, sequences: int, behind: int = 0) -> list[Choice]:
        """The usual lengths."""
        return sorted(super().choices(sequences, behind), key=lambda choice: self.order.index(choice.source))


def ordered(own: Guesser, *order: Source) -> Guesser:
    """A guesser that asks in this order."""
    policy = Ordered(own.policy.most, own.policy.times.costs, own.policy.draft_cost)
    policy.order = order
    return Guesser(policy, own.draft)


def all_ways(llm: LLM) -> dict[str, Any]:
    """The usual ones, and both orders of the sources."""
    own = llm.engine.guesser
    assert own is not None
    return {
        **usual_ways(llm),
        "look-up first": ordered(own, "lookup", "draft"),
        "draft first": ordered(own, "draft", "lookup"),
    }


def read_prompts(llm: LLM, each: int) -> Prompts:
    """Held-out questions on a text (quoting), JSON and tool calls, and beginnings of prose."""
    rows = read_lines(data_folder() / "heldout.jsonl")

    def first_turns(*skills: str) -> list[list[int]]:
        return [llm.encode_messages(row["messages"][:1]) for row in rows if row["skill"] in skills][:each]

    prose = [llm.encode(row["text"][:600]) for row in rows if row["skill"] == "prose"][:each]
    return {"quoting": first_turns("qa"), "JSON": first_turns("json", "tools"), "prose": prose}


def row_costs(llm: LLM) -> list[dict[str, float]]:
    """Time of a step of 1 to 8 rows relative to one row: what the cost model expects, and what is measured."""
    guesser, llm.engine.guesser = llm.engine.guesser, None
    assert guesser is not None
    rates = {rows: max(read_and_decode(llm, 1, rows, ROW_STEPS, seed)[1] for seed in range(3)) for rows in (1, 2, 4, 8)}
    llm.engine.guesser = guesser
    return [
        {
            "rows": rows,
            "expected": round(guesser.policy.times.cost(rows), 3),
            "measured": round(rates[1] * rows / rate, 3),
        }
        for rows, rate in rates.items()
    ]


def drafts(folder: Path) -> dict[str, Path]:
    """Draft models made of the demo model: at four bits, and parts of its layers."""
    rotates = json.loads((model_folder() / "config.json").read_text())["no_rope_layers"]
    found = {"demo at w4a8": pack_model("demo", folder / "w4a8", "w4a8")}
    for layers in ([0], [0, 1, 3]):
        name = "demo, layers " + ", ".join(map(str, layers))
        found[name] = folder / "-".join(map(str, layers))
        write_part(model_folder(), found[name], layers, {"no_rope_layers": [rotates[layer] for layer in layers]})
    return found


def measure(network: str, folder: Path | str, draft: str, draft_folder: Path, each: int) -> Iterator[dict[str, Any]]:
    """All figures of one network with one draft model."""
    llm = LLM(folder, draft=draft_folder)
    llm.settle()
    facts = {"network": network, "draft": draft}
    costs = row_costs(llm)
    print(f"{network}, draft {draft}: step times by rows", costs)
    yield {**facts, "row_costs": costs}
    for sampling, params in (("greedy", PARAMS), ("sampled", SAMPLED)):
        for item in measure_guessing(llm, read_prompts(llm, each), params, 2, lambda _: None, all_ways):
            found = {
                name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(item).items()
            }
            print(
                f"{sampling:8} {item.task:8} {item.way:18} {item.tokens_per_s:8.1f} tokens/s, "
                f"{item.tokens / item.steps:.2f} tokens a step, right {item.accepted} of {item.proposed}, "
                f"draft {item.draft_s:.2f} s"
            )
            yield {**facts, "sampling": sampling, **found}


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one prompt of each kind; nothing is kept")
    arguments = parser.parse_args()
    each = 1 if arguments.quick else 5
    folder = Path(tempfile.mkdtemp(prefix="twofold-guessing-"))
    figures: list[dict[str, Any]] = []
    try:
        small = drafts(folder)
        for draft, path in small.items():
            figures += measure("demo", "demo", draft, path, each)
        deep = folder / "deep"
        rotates = [1, 1, 1, 0] * 8
        write_part(model_folder(), deep, [0, 1, 2, 3] * 8, {"no_rope_layers": rotates}, silent_from=4)
        for draft, path in {"demo": model_folder(), **small}.items():
            figures += measure("demo with 28 silent layers", deep, draft, path, each)
    finally:
        shutil.rmtree(folder)
    if not arguments.quick:
        print(write_result("guessing", "python -m benchmarks.guessing", figures))


if __name__ == "__main__":
    main()
