"""Kept conversations: what comes back is what was computed, and every answer stays the one it is alone."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from twofold import LLM, SamplingParams
from twofold.engine import invariants
from twofold.engine.request import Request, SessionName
from twofold.engine.runner import Runner
from twofold.engine.sessions import SessionLimits, Sessions
from twofold.errors import SettingsError
from twofold.keeping import open_sessions

SHAPE: dict[str, Any] = {"dtype": "w8a8", "threads": 1, "context": 1024, "guess_tokens": 0}
CHUNK, BLOCK = 256, 32
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def alone() -> LLM:
    return LLM("demo", **SHAPE)


def load(**settings: Any) -> LLM:
    return LLM("demo", prefix_cache=True, **{"cache_tokens": 1024, **SHAPE, **settings})


def text(seed: int, count: int) -> list[int]:
    return [1, *random.Random(seed).choices(range(300, 2000), k=count - 1)]


def params(seed: int = 5, most: int = 8) -> SamplingParams:
    return SamplingParams(temperature=1.0, seed=seed, max_tokens=most, ignore_eos=True)


def prepare(llm: LLM, prompt: list[int], name: str | None, salt: bytes = b"", most: int = 8) -> Request:
    session = SessionName(owner="me", name=name) if name else None
    chosen = params(most=most).over(llm.loaded.model.defaults)
    return llm.engine.prepare(prompt, chosen, salt=salt, session=session)


def serve(
    llm: LLM, sessions: Sessions, prompt: list[int], name: str | None, salt: bytes = b"", most: int = 8
) -> tuple[list[int], int]:
    """The answer to a prompt, and how many of its tokens were known."""
    request = prepare(llm, prompt, name, salt, most)
    recalled = sessions.recall(request) if sessions.may_hold(request) else None
    if recalled:
        sessions.install(recalled)
    llm.engine.enqueue(request)
    tokens, cached = [], 0
    while not llm.engine.is_idle:
        for event in llm.engine.step():
            tokens.append(event.drawn.token)
            cached = event.cached
        invariants.check(llm.engine.scheduler)
    return tokens, cached


def flood(llm: LLM, sessions: Sessions) -> None:
    """Use every block of the cache for something else."""
    serve(llm, sessions, text(999, 1000), None)


def expected(alone: LLM, prompt: list[int], most: int = 8) -> list[int]:
    return alone.generate([prompt], params(most=most))[0].token_ids


@pytest.mark.parametrize("count", [100, 256, 300, 600])
def test_a_conversation_comes_back_after_the_cache_was_used_for_others(alone: LLM, tmp_path: Path, count: int) -> None:
    llm = load()
    sessions = open_sessions(llm, tmp_path)
    prompt = text(1, count)
    answer, cached = serve(llm, sessions, prompt, "a")
    assert (answer, cached) == (expected(alone, prompt), 0)
    flood(llm, sessions)
    again = [*prompt, *answer, *text(2, 20)]
    found, cached = serve(llm, sessions, again, "a")
    assert found == expected(alone, again)
    assert cached == (count + 7) // BLOCK * BLOCK
    assert sessions.recalled_tokens == cached
    sessions.save()


@pytest.mark.parametrize("kv_cache_dtype", ["bf16", "int8", "f32"])
def test_a_conversation_comes_back_after_a_restart(alone: LLM, tmp_path: Path, kv_cache_dtype: str) -> None:
    prompt = text(1, 600)
    first = load(kv_cache_dtype=kv_cache_dtype)
    sessions = open_sessions(first, tmp_path)
    answer, _ = serve(first, sessions, prompt, "a")
    sessions.save()
    second = load(kv_cache_dtype=kv_cache_dtype)
    sessions = open_sessions(second, tmp_path)
    again = [*prompt, *answer, 300, 301]
    found, cached = serve(second, sessions, again, "a")
    assert cached == 576
    single = LLM("demo", **SHAPE, kv_cache_dtype=kv_cache_dtype)
    assert found == expected(single, again)
    sessions.save()


def test_local_layers_keep_their_last_chunk_only(tmp_path: Path) -> None:
    llm = load()
    sessions = open_sessions(llm, tmp_path)
    serve(llm, sessions, text(1, 600), "a")  # 607 tokens computed: 18 whole blocks, the last chunk begins at 512
    sessions.save()
    kinds = [path.suffix for path in (sessions.folder / "blocks").iterdir()]
    assert (kinds.count(".global"), kinds.count(".local")) == (18, 2)


def test_a_hundred_characters_keep_their_persona_once(alone: LLM, tmp_path: Path) -> None:
    llm = load()
    sessions = open_sessions(llm, tmp_path)
    persona = text(1, 320)
    prompts = [[*persona, *text(100 + number, 40)] for number in range(100)]
    for number, prompt in enumerate(prompts):
        answer, cached = serve(llm, sessions, prompt, f"character {number}", most=2)
        assert cached == (320 if number else 0)
        assert answer == expected(alone, prompt, most=2)
    sessions.save()
    kinds = [path.suffix for path in (sessions.folder / "blocks").iterdir()]
    assert kinds.count(".global") == 10 + 100
    again = load()
    sessions = open_sessions(again, tmp_path)
    for number in random.Random(3).sample(range(100), 10):
        prompt = [*prompts[number], 300]
        found, cached = serve(again, sessions, prompt, f"character {number}", most=2)
        assert cached == 352
        assert found == expected(alone, prompt, most=2)
    sessions.save()


def test_another_salt_model_or_setting_finds_nothing(tmp_path: Path) -> None:
    prompt = text(1, 200)
    llm = load()
    sessions = open_sessions(llm, tmp_path)
    serve(llm, sessions, prompt, "a", salt=b"one")
    flood(llm, sessions)
    assert serve(llm, sessions, prompt, "a", salt=b"two")[1] == 0
    sessions.save()
    for change in ({"kv_cache_dtype": "int8"}, {"dtype": "w4a8"}):
        other = load(**change)
        sessions = open_sessions(other, tmp_path)
        assert serve(other, sessions, prompt, "a", salt=b"one")[1] == 0
        sessions.save()


def test_damaged_files_are_read_again_from_the_prompt(alone: LLM, tmp_path: Path) -> None:
    prompt = text(1, 300)
    llm = load()
    sessions = open_sessions(llm, tmp_path)
    serve(llm, sessions, prompt, "a")
    sessions.save()
    names = [name for name in sessions.book.sessions.popitem()[1].needs() if name[0] == "global"]
    for damaged in (8, 3):
        path = sessions.folder / "blocks" / f"{names[damaged][1].hex()}.global"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
        llm = load()
        sessions = open_sessions(llm, tmp_path)
        found, cached = serve(llm, sessions, prompt, None)
        assert found == expected(alone, prompt)
        assert cached == damaged * BLOCK // CHUNK * CHUNK  # of the first chunk local layers keep nothing
        assert sessions.files.failures == 1
        sessions.close()


def test_files_stay_within_their_limit_and_the_oldest_session_goes(tmp_path: Path) -> None:
    llm = load()
    sizes = [llm.engine.ops.block_bytes(llm.engine.layers(kind)) for kind in ("global", "local")]
    sessions = open_sessions(llm, tmp_path, SessionLimits(most_bytes=9 * sum(sizes)))
    for number in range(6):
        serve(llm, sessions, text(number, 160), str(number))
        flood(llm, sessions)
        assert sessions.files.size_bytes <= 9 * sum(sizes)
    left = [name.name for name in sessions.book.sessions]
    assert 0 < len(left) < 6
    assert left == ["0", "1", "2", "3", "4", "5"][-len(left) :]
    assert serve(llm, sessions, text(5, 160), "5")[1] == 128
    assert serve(llm, sessions, text(0, 160), None)[1] == 0
    sessions.save()
    on_disk = sum(path.stat().st_size - 64 for path in (sessions.folder / "blocks").iterdir())
    assert on_disk == sessions.files.size_bytes


def test_the_number_of_sessions_is_bounded(tmp_path: Path) -> None:
    llm = load()
    sessions = open_sessions(llm, tmp_path, SessionLimits(most_sessions=2))
    for number in range(4):
        serve(llm, sessions, text(number, 40), str(number))
    assert [name.name for name in sessions.book.sessions] == ["2", "3"]
    sessions.save()


def test_a_forgotten_session_leaves_no_files(tmp_path: Path) -> None:
    llm = load()
    sessions = open_sessions(llm, tmp_path)
    serve(llm, sessions, text(1, 200), "a")
    flood(llm, sessions)
    assert sessions.forget(SessionName(owner="me", name="a"))
    assert not sessions.forget(SessionName(owner="me", name="a"))
    sessions.save()
    assert [*(sessions.folder / "blocks").iterdir(), *(sessions.folder / "sessions").iterdir()] == []


def test_two_processes_cannot_share_a_folder(tmp_path: Path) -> None:
    llm = load()
    sessions = open_sessions(llm, tmp_path)
    with pytest.raises(SettingsError, match="in use by another server"):
        open_sessions(load(), tmp_path)
    sessions.save()
    open_sessions(load(), tmp_path).save()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("")
    with pytest.raises(SettingsError, match="sessions cannot be kept"):
        open_sessions(load(), tmp_path / "file")


def test_what_files_hold_never_takes_blocks_from_running_requests(alone: LLM, tmp_path: Path) -> None:
    llm = load()
    sessions = open_sessions(llm, tmp_path)
    prompt, busy = text(1, 600), text(2, 700)
    serve(llm, sessions, prompt, "a")
    flood(llm, sessions)
    running = prepare(llm, busy, None)
    llm.engine.enqueue(running)
    assert llm.engine.step() == []  # the first half of its prompt
    request = prepare(llm, prompt, "a")
    recalled = sessions.recall(request)
    assert recalled
    sessions.install(recalled)
    invariants.check(llm.engine.scheduler)
    llm.engine.enqueue(request)
    answers: dict[int, list[int]] = {running.id: [], request.id: []}
    while not llm.engine.is_idle:
        for event in llm.engine.step():
            answers[event.request_id].append(event.drawn.token)
        invariants.check(llm.engine.scheduler)
    assert answers == {running.id: expected(alone, busy), request.id: expected(alone, prompt)}
    sessions.save()


def test_random_conversations_get_the_answers_they_get_alone(alone: LLM, tmp_path: Path) -> None:
    seed = 41
    print(f"seed {seed}")
    source = random.Random(seed)
    persona = text(1, 280)
    histories: dict[str, list[int]] = {str(number): persona[: source.choice([40, 280])] for number in range(8)}
    for _ in range(3):
        llm = load(cache_tokens=source.choice([1024, 1536]))
        block = llm.engine.ops.block_bytes(llm.engine.layers("global"))
        sessions = open_sessions(llm, tmp_path, SessionLimits(most_bytes=source.choice([30, 400]) * block))
        for _ in range(12):
            name = source.choice(list(histories))
            prompt = [*histories[name], *text(source.randrange(1000), source.randrange(2, 60))]
            answer, _ = serve(llm, sessions, prompt, name, most=source.choice([1, 8, 30]))
            assert answer == expected(alone, prompt, most=len(answer))
            histories[name] = [*prompt, *answer][:900] if source.random() < 0.8 else persona
        sessions.save()


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    llm = load()
    made = Runner(llm.engine, sessions=open_sessions(llm, tmp_path))
    made.llm = llm  # type: ignore[attr-defined]
    yield made
    made.close()
    invariants.check(llm.engine.scheduler)


def test_a_request_cancelled_while_its_session_is_read_leaves_nothing(runner: Runner) -> None:
    llm, prompt = runner.llm, text(1, 600)  # type: ignore[attr-defined]

    async def main() -> int:
        async def answer(name: str | None, tokens: list[int]) -> int:
            cached = 0
            async for delivery in runner.submit([prepare(llm, tokens, name)]):
                cached = delivery.events[0].cached
            return cached

        await answer("a", prompt)
        await answer(None, text(999, 1000))
        for _ in range(5):
            stream = runner.submit([prepare(llm, prompt, "a")])
            stream.cancel()
        while runner.live:
            await asyncio.sleep(0.001)
        return await answer("a", prompt)

    assert asyncio.run(main()) == 576


def test_a_kill_at_any_moment_never_gives_a_wrong_answer(tmp_path: Path) -> None:
    kill(tmp_path, seed=7, times=3)


@pytest.mark.slow
def test_many_kills_never_give_a_wrong_answer(tmp_path: Path) -> None:
    kill(tmp_path, seed=8, times=40)


SAVER = """
import sys
from pathlib import Path
from tests.engine.test_sessions import *
llm = load(cache_tokens=2048)
sessions = open_sessions(llm, Path(sys.argv[1]))
print("ready", flush=True)
for turn in range(1000):
    for number in range(4):
        serve(llm, sessions, [*text(number, 300), *text(turn * 10 + number, 60)], str(number), most=1)
    flood(llm, sessions)
"""


def kill(folder: Path, seed: int, times: int) -> None:
    """Kill a process that keeps sessions, again and again; then ask for each of them."""
    print(f"seed {seed}")
    source = random.Random(seed)
    alone = LLM("demo", **SHAPE)
    cached_in_all = 0
    for _ in range(times):
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert saver.stdout
        assert saver.stdout.readline() == "ready\n"
        time.sleep(source.random() * 1.5)
        saver.send_signal(signal.SIGKILL)
        saver.wait()
        saver.stdout.close()
        llm = load()
        sessions = open_sessions(llm, folder)
        for number in range(4):
            prompt = [*text(number, 300), 300]
            answer, cached = serve(llm, sessions, prompt, None)
            cached_in_all += cached
            assert answer == expected(alone, prompt)
        sessions.close()
    assert cached_in_all > 0
