"""Who goes first and what is scored, through OpenAI's client against a live server."""

from __future__ import annotations

from typing import Any

import openai
import pytest

MESSAGES: Any = [{"role": "user", "content": "How many people live in Quillmere?"}]


def test_a_priority_changes_no_answer(client: openai.OpenAI) -> None:
    answers = [
        client.chat.completions.create(
            model="demo", messages=MESSAGES, temperature=0, max_tokens=8, extra_body={"priority": priority}
        )
        for priority in (0, -5, 100)
    ]
    assert len({answer.choices[0].message.content for answer in answers}) == 1


def test_a_priority_out_of_range_is_a_400_that_says_what_may_be(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="from -100 to 100"):
        client.chat.completions.create(model="demo", messages=MESSAGES, extra_body={"priority": 101})
