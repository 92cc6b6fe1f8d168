"""The client of the server benchmarks, against the paced server: what arrives, when, and what is wrong with it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.serving.client import Answer, BadAnswer, ask, ask_all, read_lines
from benchmarks.serving.servers import Server, started
from twofold.bench.proof.overhead import TOKENS


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("paced") / "log"
    with started([sys.executable, "-m", "twofold.bench.proof.overhead"], log) as server:
        yield server


def pieces(*parts: bytes, **headers: str) -> list[bytes]:
    async def read() -> list[bytes]:
        reader = asyncio.StreamReader()
        for part in parts:
            reader.feed_data(part)
        reader.feed_eof()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return [line async for line in read_lines(reader, named)]

    return asyncio.run(read())


def event(at_s: float, text: str, **more: object) -> tuple[float, bytes]:
    return at_s, json.dumps({"choices": [{"text": text}], **more}).encode()


def test_lines_are_whole_however_the_body_is_cut() -> None:
    assert pieces(b"5\r\ndata:\r\n", b"6\r\n a\n\nda\r\n3\r\nta\n\r\n0\r\n\r\n", transfer_encoding="chunked") == [
        b"data: a", b"", b"data",
    ]  # fmt: skip
    assert pieces(b"one\ntw", b"o\nthree") == [b"one", b"two", b"three"]
    assert pieces(b"one\ntw", b"o\nnot of this body", content_length="7") == [b"one", b"two"]


def test_a_connection_that_ends_in_a_chunk_ends_the_body() -> None:
    assert pieces(b"5\r\na\nb\n\n\r\nff\r\nc\n", transfer_encoding="chunked") == [b"a", b"b", b""]


def test_gaps_count_between_pieces_of_text_only() -> None:
    usage = (4.0, json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}).encode())
    answer = Answer(1.0, [event(1.25, ""), event(1.5, "a"), event(2.0, "b"), event(3.5, ""), usage], is_done=True)
    found = answer.read()
    assert (found.first_s, found.gaps_s, found.end_s, found.text) == (0.5, (0.5,), 4.0, "ab")
    assert (found.prompt_tokens, found.answer_tokens) == (3, 2)


def test_chat_chunks_are_read_too() -> None:
    chunk = json.dumps({"choices": [{"delta": {"content": "word"}}]}).encode()
    role = json.dumps({"choices": [{"delta": {"role": "assistant", "content": None}}]}).encode()
    assert Answer(0.0, [(1.0, role), (2.0, chunk)], is_done=True).read().text == "word"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(0.0, [event(1.0, "a")]), "cut off after 1 pieces"),
        (Answer(0.0, [], is_done=True), "cut off after 0 pieces"),
        (Answer(0.0, [event(1.0, "a", error={"message": "no"})], is_done=True), "an error came"),
    ],
)
def test_an_answer_that_is_not_whole_is_refused(answer: Answer, said: str) -> None:
    with pytest.raises(BadAnswer, match=said):
        answer.read()


def test_streams_are_answered_and_stamped_after_they_were_written(paced: Server) -> None:
    answers = asyncio.run(ask_all(paced.port, [{}] * 3, 2))
    assert [len(answer.events) for answer in answers] == [TOKENS] * 3
    assert all(at_s >= json.loads(data)["at_s"] for answer in answers for at_s, data in answer.events)
    assert answers[2].sent_s > min(answer.events[-1][0] for answer in answers[:2])  # two at a time


def test_a_server_counts_its_work_and_memory_and_leaves_when_told(tmp_path: Path) -> None:
    with started([sys.executable, "-m", "twofold.bench.proof.overhead"], tmp_path / "log") as server:
        assert server.cpu_s > 0
        assert server.status_bytes("VmHWM") >= server.status_bytes("VmRSS") > 2**20
        assert server.stop() != 0  # it has no handler of its own


def test_nobody_listening_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="Connect call failed"):
        asyncio.run(ask(1, {}))
