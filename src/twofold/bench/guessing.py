"""What guessing gains: the same answers without guesses, with prompt look-up, and with the draft model beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twofold.api import LLM, Completion, SamplingParams

PASSAGE = (
    "The lighthouse of Carrow Head was lit for the first time in 1874. Its keeper, Edda Marsh, climbed the 187 steps "
    "twice every night and wrote the height of the waves into a blue book. The book is kept in the library of Carrow."
)
TASKS = {
    "quoting": f"Repeat this text word for word, twice:\n\n{PASSAGE}",
    "JSON": "Write these people as a JSON list of objects with the keys name, age and city: Edda Marsh, 41, Carrow; "
    "Tom Reeve, 29, Carrow; Ines Holt, 63, Stanmere; Paul Arden, 35, Stanmere; Mia Frost, 52, Carrow.",
    "prose": "Tell a story about a lighthouse keeper who finds a letter on the beach.",
}
"""What `twofold bench --draft` asks a model; three kinds of text that are guessed very differently."""

Prompts = Mapping[str, Sequence[Sequence[int]]]
Ways = Mapping[str, Any]
"""An engine's guesser by what it is called; None guesses nothing."""
MakeWays = Callable[[LLM], Ways]


@dataclass(frozen=True, kw_only=True)
class Guessed:
    """One kind of text answered in one way: tokens per second of decoding, and how many guesses came true.

    steps: runs of the network behind `tokens`; draft_s: seconds of the draft model, read_s of them for reading prompts.
    """

    task: str
    way: str
    tokens_per_s: float
    tokens: int
    steps: int
    proposed: dict[str, int]
    accepted: dict[str, int]
    draft_s: float
    read_s: float


def task_prompts(llm: LLM) -> Prompts:
    """Token ids of TASKS, as chats."""
    return {name: [llm.encode_messages([{"role": "user", "content": text}])] for name, text in TASKS.items()}


def usual_ways(llm: LLM) -> Ways:
    """Without guesses, with look-up, and with the draft model beside it where there is one."""
    own = llm.engine.guesser
    assert own is not None, "guessing is on"
    ways: dict[str, Any] = {"no guesses": None, "look-up": own.without_draft()}
    return {**ways, "look-up and draft": own.anew()} if own.draft else ways


def measure_guessing(
    llm: LLM, prompts: Prompts, params: SamplingParams, repeats: int, progress: Callable[[str], None], ways: MakeWays
) -> Iterator[Guessed]:
    """Answer every prompt `repeats` times in every way, the ways in turn.

    What `ways` makes learns over the repeats of one kind of text, as in use. Raises AssertionError should an answer
    depend on the way: that would be our bug.
    """
    own = llm.engine.guesser
    try:
        for task, many in prompts.items():
            llm.engine.guesser = own
            guessers = ways(llm)
            answers: dict[str, list[Completion]] = {way: [] for way in guessers}
            for repeat in range(repeats):
                for way, guesser in guessers.items():
                    progress(f"{task}, {way}, {repeat + 1} of {repeats}")
                    llm.engine.guesser = guesser
                    answers[way] += [llm.generate(list(ids), params)[0] for ids in many]
            check_same(answers)
            yield from (summary(task, way, answers[way], guesser) for way, guesser in guessers.items())
    finally:
        llm.engine.guesser = own


def check_same(answers: Mapping[str, Sequence[Completion]]) -> None:
    """Every way gives the same tokens."""
    expected, *others = ([answer.token_ids for answer in found] for found in answers.values())
    assert all(found == expected for found in others), f"answers differ between {', '.join(answers)}"


def summary(task: str, way: str, answers: Sequence[Completion], guesser: Any) -> Guessed:
    """Figures over all answers of one kind in one way; time counts from each answer's first token."""
    decoded = sum(len(answer.tokens) - 1 for answer in answers)
    seconds = sum(answer.decode_s for answer in answers)
    stats = guesser.stats if guesser else None
    return Guessed(
        task=task,
        way=way,
        tokens_per_s=decoded / seconds if seconds else 0.0,
        tokens=sum(len(answer.tokens) for answer in answers),
        steps=sum(answer.steps for answer in answers),
        proposed=dict(stats.proposed.items()) if stats else {},
        accepted=dict(stats.accepted.items()) if stats else {},
        draft_s=stats.draft_s if stats else 0.0,
        read_s=stats.read_s if stats else 0.0,
    )
