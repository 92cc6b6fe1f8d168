"""Guessing changes how fast an answer comes and nothing else, whatever is guessed and whatever the policy decides."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.toys import build_engine
from twofold import LLM, SamplingParams
from twofold.backends.cpu.ops import CpuOps
from twofold.engine import invariants
from twofold.engine.blocks import Blocks, plan_layout
from twofold.engine.draft import DraftModel
from twofold.engine.engine import Engine
from twofold.engine.guess import Guesser
from twofold.engine.plan import Plan
from twofold.engine.policy import LENGTHS, Choice, GuessPolicy, Source
from twofold.engine.request import Request, Sequence
from twofold.engine.scheduler import Outline, Scheduler
from twofold.ops.types import Drawn

PASSAGE = "Quillmere has 7215 inhabitants. The mayor of Quillmere is Torvane."
MESSAGES = [{"role": "user", "content": f"{PASSAGE}\n\nHow many people live in Quillmere?"}]
FLAT = (1.0,) * 16


class Fixed(GuessPolicy):
    """Always the same length, from every source in this order."""

    def __init__(self, length: int, *sources: Source) -> None:
        super().__init__(7, FLAT, 0.1)
        self.fixed = [Choice(source=source, length=length, rate=1.0) for source in sources]

    def choices(self, sequences: int, behind: int = 0) -> list[Choice]:
        return self.fixed

    def pays_to_read(self, behind: int, to_come: int, choice: Choice, sequences: int) -> bool:
        return True


class Whims(Fixed):
    """Another length, order and opinion for every step."""

    def __init__(self, source: random.Random, sources: tuple[Source, ...] = ("lookup", "draft")) -> None:
        super().__init__(0)
        self.source = source
        self.sources = list(sources)

    def choices(self, sequences: int, behind: int = 0) -> list[Choice]:
        self.source.shuffle(self.sources)
        return [Choice(source=name, length=self.source.choice(LENGTHS), rate=1.0) for name in self.sources]

    def pays_to_read(self, behind: int, to_come: int, choice: Choice, sequences: int) -> bool:
        return self.source.random() < 0.7


@pytest.fixture(scope="module")
def plain() -> LLM:
    return LLM("demo", guess_tokens=0)


@pytest.fixture(scope="module")
def drafted() -> LLM:
    """The demo model at bf16 with itself as its draft model."""
    return LLM("demo", draft="demo")


def set_policy(llm: LLM, policy: GuessPolicy) -> Guesser:
    assert llm.engine.guesser is not None
    llm.engine.guesser = Guesser(policy, llm.engine.guesser.draft)
    return llm.engine.guesser


@pytest.mark.parametrize("params", [
    SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True),
    SamplingParams(temperature=0.8, top_p=0.9, seed=4, max_tokens=60, ignore_eos=True),
    SamplingParams(temperature=0.0, max_tokens=60, repetition_penalty=1.3, frequency_penalty=0.5, ignore_eos=True),
    SamplingParams(temperature=0.7, seed=4, max_tokens=7),
    SamplingParams(temperature=0.0, max_tokens=1),
    SamplingParams(temperature=0.0, max_tokens=60, logprobs=2),
])  # fmt: skip
@pytest.mark.parametrize("sources", [("lookup",), ("draft",), ("lookup", "draft"), ("draft", "lookup")])
def test_answers_with_and_without_guessing_are_the_same(
    plain: LLM, drafted: LLM, params: SamplingParams, sources: tuple[Source, ...]
) -> None:
    expected = plain.chat(MESSAGES, params)
    for length in (1, 3, 7):
        set_policy(drafted, Fixed(length, *sources))
        found = drafted.chat(MESSAGES, params)
        assert found.tokens == expected.tokens  # the same ids and log-probabilities
        assert (found.text, found.finish) == (expected.text, expected.finish)
    assert drafted.engine.is_idle


def test_a_draft_model_that_is_the_model_itself_is_always_right(plain: LLM, drafted: LLM) -> None:
    guesser = set_policy(drafted, Fixed(3, "draft"))
    params = SamplingParams(temperature=0.0, max_tokens=41, ignore_eos=True)
    answer = drafted.chat(MESSAGES, params)
    assert guesser.stats.proposed["draft"] == guesser.stats.accepted["draft"] == 30
    assert answer.steps == 11  # the prompt's, and forty tokens by four
    assert guesser.stats.draft_s > guesser.stats.read_s > 0
    assert guesser.stats.read_tokens == answer.prompt_tokens  # and not the token drawn after it


def test_a_stop_string_inside_a_guessed_stretch_ends_the_answer(plain: LLM, drafted: LLM) -> None:
    set_policy(drafted, Fixed(7, "draft"))
    params = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True, stop=(" is",))
    assert drafted.chat(MESSAGES, params).text == plain.chat(MESSAGES, params).text
    assert drafted.engine.is_idle


def test_an_answer_across_the_chunks_of_both_networks_is_the_same(plain: LLM, drafted: LLM) -> None:
    prompt = plain.encode(PASSAGE * 12)[:240]
    params = SamplingParams(temperature=0.0, max_tokens=300, ignore_eos=True)  # positions 240 to 540; chunks are 256
    expected = plain.generate(prompt, params)[0].token_ids
    for policy in (Fixed(7, "draft"), Fixed(3, "draft"), Whims(random.Random(3))):
        set_policy(drafted, policy)
        assert drafted.generate(prompt, params)[0].token_ids == expected


def test_the_policy_of_a_fresh_model_measures_before_it_guesses() -> None:
    llm = LLM("demo", draft="demo")
    guesser = llm.engine.guesser
    assert guesser is not None
    llm.chat(MESSAGES, SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True))
    assert guesser.stats.steps == 3
    assert guesser.stats.proposed == {"lookup": 0, "draft": 0}
    assert guesser.policy.times.is_known(1)


def test_zero_guess_tokens_make_no_guesser() -> None:
    assert LLM("demo", guess_tokens=0).engine.guesser is None


Toys = Callable[[str], tuple[Path, Any]]


def guessing_engine(folder: Path, draft_folder: Path, source: random.Random, blocks: int) -> Engine:
    """A toy in float32 with another (or itself, at four bits) as draft; few blocks, so that sequences give way."""
    engine = build_engine(folder, CpuOps(kv_dtype="f32"), step_tokens=24, max_sequences=2)
    draft = build_engine(draft_folder, CpuOps(kv_dtype="f32"), dtype="w4a8")
    layout = plan_layout(engine.blocks.layout.chunk, blocks * engine.blocks.layout.block_size, 24, 2)
    assert layout.global_blocks == blocks
    engine.blocks.__init__(layout)  # type: ignore[misc]  # fewer blocks over the same cache
    model = DraftModel(draft.ops, draft.forward, toy_shape(draft_folder), draft.blocks.layout, 60, 24)
    engine.guesser = Guesser(Whims(source), model)
    return engine


def toy_shape(folder: Path) -> Any:
    from tests.toys import open_toy

    return open_toy(folder)[0].cache_shape


@pytest.mark.parametrize(
    ("main", "draft", "blocks"),
    [("interleaved-qk-norm", "interleaved-qk-norm", 12), ("scout", "interleaved-qk-norm", 12), ("llama3", "llama2", 3)],
)
def test_joins_cancels_preemption_and_stops_leave_every_answer_as_it_is_alone(
    toy_folder: Toys, main: str, draft: str, blocks: int
) -> None:
    seed = 29
    print(f"seed {seed}")
    source = random.Random(seed)
    alone = build_engine(toy_folder(main)[0], CpuOps(kv_dtype="f32"))
    engine = guessing_engine(toy_folder(main)[0], toy_folder(draft)[0], source, blocks)
    preemptions = count_preemptions(engine)
    wanted: dict[int, list[int]] = {}
    found: dict[int, list[int]] = {}
    for number in range(60):
        prompt = [source.randrange(3, 90) for _ in range(source.randrange(1, 30))]
        params = SamplingParams(
            temperature=source.choice([0.0, 0.0, 0.7]), seed=number, max_tokens=source.randrange(1, 64 - len(prompt)),
            stop_token_ids=tuple(source.sample(range(90), source.choice([0, 2]))),
            repetition_penalty=source.choice([None, 1.2]),
        )  # fmt: skip
        request = engine.add(prompt, params)
        wanted[request.id] = answer_alone(alone, prompt, params)
        found[request.id] = []
        for _ in range(source.randrange(30)):
            advance(engine, found)
        if source.random() < 0.15:
            victim = source.choice(sorted(found))
            engine.cancel(victim)
            if len(found[victim]) < len(wanted[victim]):
                wanted[victim] = wanted[victim][: len(found[victim])]
    while not engine.is_idle:
        advance(engine, found)
    assert found == wanted
    assert engine.guesser is not None
    stats = engine.guesser.stats
    assert stats.accepted["draft"] > 0
    assert stats.accepted["draft"] < stats.proposed["draft"]
    assert stats.proposed["lookup"] > 0
    assert preemptions[0] > 0


def count_preemptions(engine: Engine) -> list[int]:
    count = [0]
    preempt = engine.scheduler.preempt

    def counted(sequence: Sequence, step: Outline) -> None:
        count[0] += 1
        preempt(sequence, step)

    engine.scheduler.preempt = counted  # type: ignore[method-assign]
    return count


def answer_alone(engine: Engine, prompt: list[int], params: SamplingParams) -> list[int]:
    request = engine.add(prompt, params)
    tokens: list[int] = []
    while not engine.is_idle:
        tokens += [event.drawn.token for event in engine.step()]
    assert request.id >= 0
    return tokens


def advance(engine: Engine, found: dict[int, list[int]]) -> None:
    for event in engine.step():
        found[event.request_id].append(event.drawn.token)
    invariants.check(engine.scheduler)
    assert engine.guesser is not None
    assert engine.guesser.draft is not None
    invariants.check_draft(engine.guesser.draft)


def test_random_traffic_with_guesses_keeps_the_invariants() -> None:
    """Draws follow a fixed random text, so guesses are sometimes right, and every answer must follow it too."""
    seed = 23
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(20):
        text = [source.randrange(4) for _ in range(200)]
        served = Scheduler(Blocks(plan_layout(source.choice([None, 8]), 64, 16, 3)), 16, 3)
        answers: dict[int, list[int]] = {}
        for number in range(12):
            count = source.randrange(1, 30)
            request = Request(
                id=number, prompt=tuple(text[:count]), params=SamplingParams(), seed=0, stop_ids=frozenset(),
                max_tokens=source.randrange(1, 30),
            )  # fmt: skip
            served.add(Sequence(request=request, tokens=text[:count]))
            answers[number] = []
        while (plan := plan_with_guesses(served, source)) is not None:
            drawn = []
            for item in plan.slices:
                if item.samples:
                    known = len(item.sequence.tokens)
                    drawn += [Drawn(token=text[known + place]) for place in range(len(item.guesses) + 1)]
            for event in served.commit(plan, drawn):
                answers[event.request_id].append(event.drawn.token)
            invariants.check(served)
        assert len(served.blocks.free_global) == served.blocks.layout.global_blocks
        assert all(answers.values())


def plan_with_guesses(served: Scheduler, source: random.Random) -> Plan | None:
    most = source.choice([0, 1, 3, 7])
    return served.plan({item.request.id: item.lookup.guess(item.tokens, most) for item in served.running})
