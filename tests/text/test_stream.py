"""TextStream: the pieces are the whole, and stop strings never show."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.errors import InvalidSampling
from twofold.text.stream import TextStream

QUICK = settings(max_examples=150, deadline=None)
FAMILIES = st.sampled_from(["llama4", "llama3", "llama2"])
IDS = st.lists(st.integers(0, 700) | st.sampled_from([-1, 10**7]), max_size=40)


def run(stream: TextStream, ids: list[int]) -> list[str]:
    return [*(stream.feed(token) for token in ids), stream.flush()]


def cut(text: str, stops: list[str]) -> tuple[str, str | None]:
    """What TextStream promises, in the slow and obvious way."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return text, None


@given(FAMILIES, IDS, st.booleans())
@QUICK
def test_the_pieces_join_to_the_decoded_whole(tokenizers, family, ids, skip_special):
    tokenizer = tokenizers[family]
    pieces = run(TextStream(tokenizer, skip_special=skip_special), ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special=skip_special)


@given(FAMILIES, st.text(max_size=60))
@QUICK
def test_a_text_survives_encoding_and_streaming(tokenizers, family, text):
    tokenizer = tokenizers[family]
    assert "".join(run(TextStream(tokenizer), tokenizer.encode(text))) == text


@given(FAMILIES, st.lists(st.integers(0, 127), max_size=40), st.data())
@QUICK
def test_stop_strings_cut_at_the_same_place_however_the_text_is_split(tokenizers, family, ids, data):
    tokenizer = tokenizers[family]
    text = tokenizer.decode(ids)
    slices = st.tuples(st.integers(0, len(text)), st.integers(1, 6)).map(lambda at: text[at[0] : at[0] + at[1]])
    stops = data.draw(st.lists((slices | st.text("ab�", max_size=4)).filter(bool), max_size=4))
    stream = TextStream(tokenizer, stops)
    shown, stop = cut(text, stops)
    assert "".join(run(stream, ids)) == shown
    assert (stream.stop_string, stream.stopped) == (stop, stop is not None)
    kept = TextStream(tokenizer, stops, include_stop=True)
    assert "".join(run(kept, ids)) == shown + (stop or "")


@given(st.text("ab", min_size=1, max_size=60), st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=3))
@QUICK
def test_self_overlapping_stop_strings_are_found(tokenizers, text, stops):
    tokenizer = tokenizers["llama4"]
    ids = [token for character in text for token in tokenizer.encode(character)]
    stream = TextStream(tokenizer, stops)
    assert "".join(run(stream, ids)) == cut(text, stops)[0]


def test_nothing_shown_is_ever_part_of_a_stop_string(tokenizers):
    tokenizer = tokenizers["llama4"]
    stream = TextStream(tokenizer, ["END!"])
    pieces = [stream.feed(tokenizer.encode(character)[0]) for character in "a ENEND! later"]
    assert pieces == ["a", " ", "", "", "EN", "", "", "", "", "", "", "", "", ""]
    assert stream.stopped
    assert stream.stop_string == "END!"
    assert stream.flush() == ""


def test_what_may_have_become_a_stop_string_is_shown_at_the_end(tokenizers):
    tokenizer = tokenizers["llama4"]
    stream = TextStream(tokenizer, ["END!"])
    assert [stream.feed(token) for token in tokenizer.encode("E")] == [""]
    assert stream.flush() == "E"
    assert not stream.stopped


def test_half_a_character_waits_for_its_rest(tokenizers):
    tokenizer = tokenizers["llama4"]
    ids = [
        tokenizer.encode("a")[0],
        *(next(i for i in range(256) if tokenizer.token_bytes(i) == bytes([b])) for b in "€".encode()),
    ]
    assert run(TextStream(tokenizer), ids) == ["a", "", "", "€", ""]
    assert run(TextStream(tokenizer), ids[:-1]) == ["a", "", "", "�"]


def test_an_unfinished_character_at_the_end_can_complete_a_stop_string(tokenizers):
    tokenizer = tokenizers["llama4"]
    first_byte = next(token for token in range(256) if tokenizer.token_bytes(token) == b"\xe2")
    stream = TextStream(tokenizer, ["�"])
    assert run(stream, [first_byte]) == ["", ""]
    assert stream.stopped


def test_special_tokens_are_hidden_or_shown(tokenizers):
    tokenizer = tokenizers["llama4"]
    ids = [*tokenizer.encode("hi"), tokenizer.special_ids["<|eot|>"]]
    assert "".join(run(TextStream(tokenizer), ids)) == "hi"
    assert "".join(run(TextStream(tokenizer, skip_special=False), ids)) == "hi<|eot|>"


@pytest.mark.parametrize("stop", [[""], ["a", ""], "END"])
def test_a_stop_that_is_no_list_of_texts_is_refused(tokenizers, stop):
    with pytest.raises(InvalidSampling, match="stop"):
        TextStream(tokenizers["llama4"], stop)


def test_a_stop_string_costs_the_same_per_token_in_a_long_answer(tokenizers):
    tokenizer = tokenizers["llama4"]
    stream = TextStream(tokenizer, ["a" * 50 + "b"])
    token = tokenizer.encode("a")[0]
    pieces = run(stream, [token] * 20_000)
    assert "".join(pieces) == "a" * 20_000
    assert len(stream._held) <= 50
