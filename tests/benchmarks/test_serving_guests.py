"""The load's clients: they see what is wrong, and a live server gives them nothing to see."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator

import pytest

from benchmarks.serving.client import Answer
from benchmarks.serving.guests import Guestbook, Truth, ask_again, good_body, hang_up, load, nonsense, read_slowly
from benchmarks.serving.servers import Server, started, twofold_command
from benchmarks.serving.traces import complaints, differences, traces

BODY = {"messages": [], "max_tokens": 2, "ignore_eos": True}
QUESTION = {
    "messages": [{"role": "user", "content": "What is 5?"}],
    "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 8, "temperature": 0, "ignore_eos": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("demo") / "log"
    with started(twofold_command("demo", "--dtype", "w8a8", "--threads", "1", "--max-num-seqs", "4"), log) as server:
        yield server


def answer(*ids: str, tokens: int = 2, request_id: str = "mine", is_done: bool = True) -> Answer:
    events = [(float(at), json.dumps({"id": name, "choices": [{"text": "a"}]}).encode()) for at, name in enumerate(ids)]
    usage = {"id": ids[0], "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": tokens}}
    return Answer(0.0, [*events, (9.0, json.dumps(usage).encode())], is_done, {"x-request-id": request_id})


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (answer("one", "one"), None),
        (answer("one", "two"), "have 2 ids"),
        (answer("one", "one", tokens=1), "has 1 tokens; 2 were asked for"),
        (answer("one", "one", request_id="yours"), "has the request id 'yours'"),
        (answer("one", "one", is_done=False), "a good stream was lost"),
    ],
)
def test_what_is_wrong_with_an_answer_is_written_down(found: Answer, fault: str | None) -> None:
    book = Guestbook()
    book.welcome(BODY, found, "mine", random.Random(1))
    assert [fault in item for item in book.faults] == [True] if fault else not book.faults


def test_good_requests_can_be_had_again_and_differ_from_each_other() -> None:
    bodies = [good_body(random.Random(number)) for number in range(40)]
    assert len({json.dumps(body) for body in bodies}) == 40
    assert all("seed" in body for body in bodies)
    assert good_body(random.Random(3)) == bodies[3]


def test_nonsense_has_many_forms() -> None:
    assert len({nonsense(random.Random(number))[0] for number in range(200)}) == 11


def test_an_answer_that_changes_is_noticed(demo: Server) -> None:
    same = asyncio.run(ask_again(demo.port, [Truth(body=QUESTION, text="?", answer_tokens=8)]))
    assert len(same) == 1
    assert "under load it gave '?'" in same[0]


def test_a_crowd_is_served_and_nothing_of_it_stays(demo: Server) -> None:
    asyncio.run(load(demo.port, 4, 0.2, seed=1))
    before = traces(demo)
    book = asyncio.run(load(demo.port, 12, 2.0, seed=2))
    assert not book.faults
    assert book.outcomes["good: whole"]
    assert book.outcomes.total() >= 12
    assert not asyncio.run(ask_again(demo.port, book.truths[:3]))
    end = time.monotonic() + 60
    while stays := differences(before, traces(demo) | {"threads": 0}):  # a pool of threads grows with the crowd
        assert time.monotonic() < end, stays
        time.sleep(0.1)


def test_every_way_to_hang_up_is_taken(demo: Server) -> None:
    ways = {asyncio.run(hang_up(demo.port, random.Random(number))) for number in range(16)}
    assert ways == {"in the body", "at once", "in the prompt", "in the answer", "half"}


def test_a_slow_reader_reads_until_told(demo: Server) -> None:
    async def read() -> str:
        return await read_slowly(demo.port, random.Random(1), asyncio.get_running_loop().time() + 1)

    assert asyncio.run(read()) == "200"


def test_the_log_of_this_server_has_no_complaints(demo: Server) -> None:
    assert not complaints(demo.log.read_text())
    assert complaints("x ERROR asyncio Task exception was never retrieved\nfine") == [
        "the log says: x ERROR asyncio Task exception was never retrieved"
    ]
