"""Small damages to files: of bytes anywhere, of a JSON value, of a safetensors header that keeps its true length."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

DEEP = 3000
ODD_NUMBERS = (0, 1, -1, 2, 3, 7, 127, 255, 2**15, 2**31 - 1, 2**32, 2**53 + 1, 2**62, 2**63, 2**64, 10**30, -(2**63))
ODD_FLOATS = (0.5, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"))
ODD_TEXTS = ("", "x", "F32", "U8", "a" * 5000, "\0", "\ud800", "💥", "../../x", "{{ x }}", "int", "group", "FP8")
INTERESTING = (b"\0", b"\xff", b"\x7f", b"\x80", b'"', b"{", b"}", b"[", b"]", b",", b":", b"9", b"-", b"e")


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """One to four edits at random places."""
    for _ in range(random.randint(1, 4)):
        data = random.choice(BYTE_EDITS)(data, random)
    return data


def flip(data: bytes, random: Random) -> bytes:
    """One bit turned."""
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def overwrite(data: bytes, random: Random) -> bytes:
    """A few bytes replaced by others."""
    at, count = random.randint(0, len(data)), random.choice((1, 1, 2, 4, 8))
    return data[:at] + odd_bytes(count, random) + data[at + count :]


def insert(data: bytes, random: Random) -> bytes:
    """A few bytes put in."""
    at = random.randint(0, len(data))
    return data[:at] + odd_bytes(random.choice((1, 1, 2, 8, 40)), random) + data[at:]


def cut(data: bytes, random: Random) -> bytes:
    """A stretch taken out."""
    at = random.randint(0, len(data))
    return data[:at] + data[at + random.choice((1, 2, 4, 16, len(data))) :]


def repeat(data: bytes, random: Random) -> bytes:
    """A stretch written twice."""
    begin = random.randint(0, len(data))
    end = min(len(data), begin + random.choice((1, 4, 32, 256)))
    return data[:end] + data[begin:end] + data[end:]


def odd_bytes(count: int, random: Random) -> bytes:
    """Bytes that mean something somewhere, or any."""
    return random.choice(INTERESTING) * count if random.random() < 0.5 else random.randbytes(count)


BYTE_EDITS: tuple[Callable[[bytes, Random], bytes], ...] = (flip, flip, overwrite, overwrite, insert, cut, repeat)


def mutate_json(value: Any, random: Random) -> Any:
    """One to three changes somewhere in a JSON value."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        value = change(value, random)
    return value


def change(value: Any, random: Random) -> Any:
    """A copy with one part replaced, removed, doubled or renamed; deeper parts are as likely as shallow ones."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        return change_object(value, key, random)
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        kind = random.random()
        if kind < 0.2:
            return value[:at] + value[at + 1 :]
        if kind < 0.4:
            return [*value, value[at]]
        return [*value[:at], change(value[at], random), *value[at + 1 :]]
    return odd_value(value, random)


def change_object(value: dict[str, Any], key: str, random: Random) -> dict[str, Any]:
    """See change."""
    kind = random.random()
    if kind < 0.1:
        return {name: item for name, item in value.items() if name != key}
    if kind < 0.2:
        other = random.choice([*value, *ODD_TEXTS])
        return {other if name == key else name: item for name, item in value.items()}
    if kind < 0.25:
        return {**value, random.choice(ODD_TEXTS): odd_value(None, random)}
    if kind < 0.3:
        return {**value, key: value[random.choice(list(value))]}
    return {**value, key: change(value[key], random)}


def odd_value(value: Any, random: Random) -> Any:
    """Something near the value, or something that does not belong there at all."""
    if type(value) is int and random.random() < 0.5:
        return value + random.choice((-1, 1, value, -2 * value, 2**31, 2**40))
    if isinstance(value, str) and value and random.random() < 0.3:
        return mutate_bytes(value.encode("utf-8", "replace"), random).decode("utf-8", "replace")
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: random.choice(ODD_NUMBERS),
        lambda: random.choice(ODD_FLOATS),
        lambda: random.choice(ODD_TEXTS),
        lambda: random.choice((None, True, False, [], {}, [[]], {"": None})),
        lambda: [value] * random.choice((1, 2, 40)),
        lambda: {"content": value, "weights": value},
    )
    return random.choice(kinds)()


def mutate_json_file(data: bytes, random: Random) -> bytes:
    """A JSON file that mostly still is one."""
    kind = random.random()
    if kind < 0.2:
        return mutate_bytes(data, random)
    if kind < 0.21:
        return b"[" * DEEP + data + b"]" * DEEP
    return json.dumps(mutate_json(json.loads(data), random)).encode()


def mutate_container(data: bytes, random: Random) -> bytes:
    """A safetensors file: its header changed as JSON or as bytes, its length, its data, or anything."""
    kind = random.random()
    begin = 8 + int.from_bytes(data[:8], "little")
    if kind < 0.4:
        header = mutate_json_file(data[8:begin], random)
        return len(header).to_bytes(8, "little") + header + data[begin:]
    if kind < 0.6:
        return swap_entries(data, begin, random)
    if kind < 0.63:
        return odd_bytes(8, random) + data[8:]
    if kind < 0.9:
        return data[:begin] + mutate_data(data[begin:], random)
    return mutate_bytes(data, random)


def swap_entries(data: bytes, begin: int, random: Random) -> bytes:
    """One tensor given the dtype, shape, place or name of another: every part is plausible by itself."""
    header: dict[str, Any] = json.loads(data[8:begin])
    names = [name for name in header if name != "__metadata__"]
    if len(names) < 2:
        return mutate_bytes(data, random)
    one, other = random.sample(names, 2)
    if random.random() < 0.3:
        header[one], header[other] = header[other], header[one]
    elif random.random() < 0.3:
        header = {{one: other, other: one}.get(name, name): entry for name, entry in header.items()}
    else:
        part = random.choice(("dtype", "shape", "data_offsets"))
        header[one] = {**header[one], part: header[other][part]}
    if random.random() < 0.3:
        shape = list(header[one]["shape"])
        random.shuffle(shape)
        header[one] = {**header[one], "shape": shape[::-1]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[begin:]


def mutate_data(data: bytes, random: Random) -> bytes:
    """The same number of bytes, some of them others."""
    result = bytearray(data)
    for _ in range(random.choice((1, 2, 8))):
        if result:
            at, stretch = random.randrange(len(result)), odd_bytes(random.choice((1, 2, 4, 8)), random)
            result[at : at + len(stretch)] = stretch[: len(result) - at]
    return bytes(result)
