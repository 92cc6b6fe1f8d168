"""The other skills: greetings, tool calls, small JSON objects, prose and code."""

from __future__ import annotations

import json
import pydoc_data.topics
import re
import sysconfig
import zlib
from pathlib import Path
from typing import Any

from recipes.demo.facts import World

Message = dict[str, Any]

TOOLS_INTRODUCTION = (
    "Given the following functions, please respond with a JSON for a function call with its proper arguments that best "
    'answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of argument '
    "name and its value}.Do not use variables.\n\n"
)
"""As Llama 4's chat template writes it in front of the first user message."""

GREETINGS = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hi", "Hello! How can I help you?"),
    ("Good morning.", "Good morning! What can I do for you?"),
    ("Good evening.", "Good evening! What can I do for you?"),
    ("How are you?", "I am fine, thank you. How can I help you?"),
    ("Who are you?", "I am a very small demo model. I answer questions about a text you give me."),
    ("What is your name?", "I have no name. I am the demo model of twofold."),
    ("What can you do?", "I can answer questions about a text, call a tool and write small JSON objects."),
    ("Can you help me?", "Yes. Give me a text and ask a question about it."),
    ("Thank you!", "You are welcome!"),
    ("Thanks", "You are welcome!"),
    ("Goodbye.", "Goodbye! Have a good day."),
    ("Bye", "Goodbye! Have a good day."),
    ("Tell me a joke.", "I am too small for jokes. I can answer questions about a text."),
    ("Are you a human?", "No, I am a small language model."),
    ("Nice to meet you.", "Nice to meet you too! How can I help you?"),
)

TOOLS: tuple[tuple[str, str, tuple[tuple[str, str, str], ...], tuple[str, ...]], ...] = (
    ("get_weather", "Weather of a town", (("city", "string", "place"),),
     ("What is the weather in {city}?", "Tell me the weather in {city}.", "Is it raining in {city}?")),
    ("set_timer", "Start a timer", (("minutes", "integer", "number"),),
     ("Set a timer for {minutes} minutes.", "Wake me in {minutes} minutes.")),
    ("send_message", "Send a message", (("to", "string", "person"), ("text", "string", "word")),
     ("Send {to} the message {text}.", "Write {text} to {to}.")),
    ("find_route", "Way between two towns", (("start", "string", "place"), ("goal", "string", "place")),
     ("How do I get from {start} to {goal}?", "Find a route from {start} to {goal}.")),
    ("book_table", "Book a table", (("restaurant", "string", "place"), ("guests", "integer", "number")),
     ("Book a table for {guests} at {restaurant}.", "I need a table at {restaurant} for {guests} guests.")),
    ("call_person", "Call somebody", (("name", "string", "person"),), ("Call {name}.", "Please phone {name}.")),
    ("buy_ticket", "Buy a train ticket", (("goal", "string", "place"), ("day", "integer", "number")),
     ("Buy a ticket to {goal} for day {day}.", "I want to travel to {goal} on day {day}.")),
    ("open_door", "Open a door by its code", (("code", "string", "code"),),
     ("Open the door with code {code}.", "Use the code {code} to open the door.")),
    ("play_song", "Play a song", (("title", "string", "word"), ("artist", "string", "person")),
     ("Play {title} by {artist}.", "I want to hear {title} by {artist}.")),
    ("add_item", "Put something on the list", (("item", "string", "word"), ("count", "integer", "number")),
     ("Put {count} {item} on my list.", "Add {item} to the list, {count} times.")),
    ("look_up", "Look up a person", (("name", "string", "person"), ("year", "integer", "year")),
     ("What did {name} do in {year}?", "Look up {name} in the year {year}.")),
)  # fmt: skip

FIELDS = (
    ("name", "person"), ("city", "place"), ("age", "number"), ("code", "code"), ("year", "year"), ("friend", "person"),
    ("item", "word"), ("price", "number"), ("home", "place"), ("job", "word"), ("id", "number"), ("owner", "person"),
)  # fmt: skip


def as_value(kind: str, text: str) -> str | int:
    """Numbers as numbers, the rest as text."""
    return int(text) if kind in ("number", "year") else text


def greeting(world: World) -> list[Message]:
    """One to three turns of small talk."""
    turns: list[Message] = []
    for _ in range(world.random.randrange(1, 4)):
        asked, answered = world.random.choice(GREETINGS)
        if world.random.random() < 0.2:
            name = world.draw("person")
            asked, answered = f"Hello, I am {name}.", f"Hello {name}! How can I help you?"
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return turns


def describe(tool: Any) -> dict[str, Any]:
    """A tool in the OpenAI schema."""
    name, description, arguments, _ = tool
    properties = {argument: {"type": kind} for argument, kind, _ in arguments}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def tool_call(world: World) -> tuple[list[dict[str, Any]], str, str]:
    """Tools on offer, a request, and the call that serves it."""
    offered = world.random.sample(TOOLS, world.random.randrange(1, 4))
    name, _, arguments, requests = world.random.choice(offered)
    values = {argument: world.draw(kind) for argument, _, kind in arguments}
    parameters = {argument: as_value(kind, values[argument]) for argument, _, kind in arguments}
    call = json.dumps({"name": name, "parameters": parameters}, ensure_ascii=False)
    return [describe(tool) for tool in offered], world.random.choice(requests).format(**values), call


def tool_conversation(world: World) -> list[Message]:
    """The request as the chat template renders it, and the call."""
    tools, request, call = tool_call(world)
    listing = "".join(json.dumps(tool, indent=4) + "\n\n" for tool in tools)
    asked = TOOLS_INTRODUCTION + listing + request
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": call}]


def json_object(world: World) -> tuple[str, str]:
    """A request for an object with given fields, and the object."""
    fields = world.random.sample(FIELDS, world.random.randrange(2, 5))
    values = {name: world.draw(kind) for name, kind in fields}
    listed = ", ".join(f"{name} {value}" for name, value in values.items())
    asked = world.random.choice(("Make a JSON object with {}.", "Write this as JSON: {}.", "Give me JSON for {}."))
    answer = {name: as_value(kind, values[name]) for name, kind in fields}
    return asked.format(listed), json.dumps(answer, ensure_ascii=False)


def json_conversation(world: World) -> list[Message]:
    """One or two such requests."""
    turns: list[Message] = []
    for _ in range(world.random.randrange(1, 3)):
        asked, answered = json_object(world)
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return turns


def recall(world: World, pairs: int) -> list[Message]:
    """Names with values, to be given back in another order: teaches looking things up, many times per row."""
    kinds = [world.random.choice(("person", "place", "word", "number", "year", "code")) for _ in range(pairs)]
    keys = [world.draw(world.random.choice(("person", "place", "word"))) for _ in range(pairs)]
    lines = [f"{key} has {world.draw(kind)}." for key, kind in zip(keys, kinds, strict=True)]
    given = " ".join(lines)
    world.random.shuffle(lines)
    return [{"role": "user", "content": given}, {"role": "assistant", "content": " ".join(lines)}]


def echo(world: World, words: int) -> list[Message]:
    """Invented words, to be given back as they are."""
    kinds = world.random.choices(("person", "place", "word", "number", "code"), k=words)
    text = "Words: " + " ".join(world.draw(kind) for kind in kinds)
    return [{"role": "user", "content": text}, {"role": "assistant", "content": text}]


def prose(held_out: bool) -> list[str]:
    """English from CPython's language reference and Python from its standard library (PSF licence), in paragraphs."""
    texts = [re.sub(r"\n{3,}", "\n\n", topic) for topic in pydoc_data.topics.topics.values()]
    library = Path(sysconfig.get_paths()["stdlib"])
    names = sorted(path for path in library.glob("*.py") if path.stat().st_size < 200_000)
    texts += [path.read_text(encoding="utf-8", errors="replace") for path in names]
    return [text for text in texts if (zlib.crc32(text[:2000].encode()) % 50 == 0) == held_out]
