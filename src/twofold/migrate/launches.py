"""Finds what starts another server: commands, lists of words, container images, names in the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from twofold.migrate.files import Source
from twofold.migrate.findings import Confidence, Finding
from twofold.migrate.flags import Program, programs, variables
from twofold.migrate.stretches import Stretch, Stretches
from twofold.migrate.translate import Given, is_exact, new_command, read_command, rewritten
from twofold.migrate.words import Word, list_words, shell_words

COMMANDS = ("shell", "settings", "dockerfile", "yaml", "json", "toml")
"""Kinds of files whose commands a machine may write anew."""
BEFORE = re.compile(
    r"""(?:^|[;|&(]|\bdo\b|\bthen\b"""
    r"""|\b(?:CMD|RUN|ENTRYPOINT|command:|entrypoint:|run:|ExecStart=-?|[\w-]+:(?=[ ]*["'])))"""
    r"""[ \t]*["']?(?:-[ \t]+)?(?:(?:exec|nohup|sudo|time|env|[A-Z_][A-Z0-9_]*=[^\s"']*)[ \t]+)*\Z"""
)
JSON_KEY = re.compile(r"""["'][\w:.\-]+["']\s*:\s*["']\Z""")
LISTS = {
    "vLLM": r"""["'](?:[\w./\-]*/)?vllm["']\s*,\s*["']serve["']|["']-m["']\s*,\s*["']vllm\.entrypoints\.[\w.]+["']""",
    "TGI": r"""["'](?:[\w./\-]*/)?text-generation-launcher["'](?=\s*[,\]])""",
    "llama.cpp": r"""["'](?:[\w./\-]*/)?llama-server["'](?=\s*[,\]])""",
    "Ollama": r"""["'](?:[\w./\-]*/)?ollama["']\s*,\s*["'](?:serve|run|pull)["']""",
}
COMMAND_KEY = re.compile(r"^(?P<indent>[ ]*)(?:-[ ]+)?(?:command|args):(?P<rest>.*)$")
OWN_IMAGE = (
    'an image of your own: FROM python:3.12-slim, RUN pip install \'twofold[serve]\', ENTRYPOINT ["twofold", "serve"]'
)


def launches(source: Source, parts: Stretches) -> Iterator[Finding]:
    """All that starts or sets another server in a file."""
    small = source.text.lower()
    for program in programs():
        if program.sign not in small:
            continue
        for match in program.starts.finditer(source.text):
            yield from command(source, parts, program, match.start(), match.end())
        for match in re.finditer(LISTS[program.name], source.text):
            if parts.at(match.start()).role != "comment":
                end = source.text.find("]", match.end())
                words = list_words(source.text, match.end(), end if end >= 0 else match.end())
                yield from told(source.text, program, match.start(), match.end(), words)
        for match in program.images.finditer(source.text):
            if parts.at(match.start()).role != "comment":
                yield from image(source, program, match)
    yield from environment(source, parts)


def command(source: Source, parts: Stretches, program: Program, start: int, end: int) -> Iterator[Finding]:
    """A command line: written anew as a whole where every word of it is understood."""
    text, part = source.text, parts.at(start)
    if text[end : end + 1] in ("'", '"') and text[start - 1 : start] == text[end : end + 1]:
        return  # an item of a list
    if part.role == "comment" or not is_command(text, part, start):
        where = "a comment" if part.role == "comment" else "a text that may not be a command"
        yield launch(program, text[start:end], (start, end), "twofold serve MODEL", f"it stands in {where}", "low")
        return
    words = shell_words(text, end, bound(text, start, part.end))
    given = read_command(program, words)
    if source.kind not in COMMANDS or part.role != "text" or not is_exact(program, given):
        yield from told(text, program, start, end, words)
        return
    stop = given[-1].end
    why = f"every flag has its equivalent: {'; '.join(explained(given)) or 'the same flags'}"
    found = launch(program, text[start:stop], (start, stop), new_command(program, given), why, "high")
    yield replace(found, replacement=rewritten(text, start, end, program, given))


def is_command(text: str, part: Stretch, start: int) -> bool:
    """Whether a program's name stands where a command begins."""
    begin = part.start if part.role == "string" else text.rfind("\n", 0, start) + 1
    line = text[begin:start]
    if part.role == "string":
        return not line.strip("rRbBfFuU\"'`( \t\n") or bool(BEFORE.search(line))
    return bool(BEFORE.search(line) or JSON_KEY.search(line))


def bound(text: str, start: int, end: int) -> int:
    """Where a command must end: at the quote around it, if it stands in one on its line."""
    line = text.rfind("\n", 0, start) + 1
    for quote in "\"'":
        before = text[line:start].replace("\\" + quote, "")
        if before.count(quote) % 2:
            closing = text.find(quote, start)
            while closing > 0 and text[closing - 1] == "\\":
                closing = text.find(quote, closing + 1)
            return min(end, closing) if closing >= 0 else end
    return end


def told(text: str, program: Program, start: int, end: int, words: Sequence[Word]) -> Iterator[Finding]:
    """A command that a person must write anew: the command, then each flag that changes."""
    verb = text[start:end].strip("\"'").split()[-1].strip("\"'")
    if program.verbs:
        why = "twofold has no server that loads models by name: one server holds one model"
        yield launch(program, text[start:end], (start, end), program.verbs.get(verb, ""), why, "high")
        return
    given = read_command(program, words)
    why = "not every word of it can be translated by a machine, or it is part of a program"
    yield launch(program, text[start:end], (start, end), new_command(program, given), why, "medium")
    yield from flags_told(program, given)


def flags_told(program: Program, given: Sequence[Given]) -> Iterator[Finding]:
    """One finding for each flag that is not the same."""
    for item in given:
        if item.name and not (item.flag and item.flag.how == "same" and item.flag.new_name(item.name) == item.name):
            becomes = "not known: twofold serve --help lists what there is"
            yield Finding(
                rule="launch-flag", start=item.word.start, end=item.end,
                found=" ".join([item.word.text, *(word.text for word in item.values)]), what=f"flag of {program.name}",
                becomes=item.flag.told(item.name, item.value) if item.flag else becomes,
                why=item.flag.why if item.flag else "unknown flag", confidence="high" if item.flag else "medium",
            )  # fmt: skip


def explained(given: Sequence[Given]) -> list[str]:
    """What becomes of the flags of a command that is written anew."""
    found = []
    for item in given:
        if item.name and item.flag and item.new_words()[:1] != [item.name]:
            found.append(f"{item.name} becomes {' '.join(item.new_words()[:1]) or 'nothing'} ({item.flag.why})")
    return found


def launch(
    program: Program, found: str, place: tuple[int, int], becomes: str, why: str, confidence: Confidence
) -> Finding:
    """A command that starts another server."""
    return Finding(
        rule="launch", start=place[0], end=place[1], found=found, what=f"command that starts {program.name}",
        becomes=becomes, why=why, confidence=confidence,
    )  # fmt: skip


def image(source: Source, program: Program, match: re.Match[str]) -> Iterator[Finding]:
    """A container image, with the flags given to it."""
    text = source.text
    words: list[Word] = []
    if source.kind == "yaml":
        words = compose_words(text, match.start())
    elif source.kind == "shell":
        words = shell_words(text, match.end(), len(text))
    elif source.kind == "dockerfile":
        for line in re.finditer(r"(?m)^(?:CMD|ENTRYPOINT)[ \t]+(\[.*\])", text):
            words += list_words(text, line.start(1), line.end(1))
    given = read_command(program, words)
    yield Finding(
        rule="container-image", start=match.start(), end=match.end(), found=match[0],
        what=f"container image of {program.name}", becomes=f"{OWN_IMAGE}; in it: {new_command(program, given)}",
        why="there is no image of twofold to pull; the wheel needs nothing but Python",
    )  # fmt: skip
    yield from flags_told(program, given)


def compose_words(text: str, place: int) -> list[Word]:
    """The words of `command:` or `args:` beside the `image:` at a place of a YAML file."""
    starts = [0, *(match.end() for match in re.finditer(r"\n", text))]
    lines = text.split("\n")
    row = text.count("\n", 0, place)
    depth = depth_of(lines[row])
    first = row
    while (
        first > 0 and (depth_of(lines[first]) >= depth or not lines[first].strip()) and not is_item(lines, first, depth)
    ):
        first -= 1
    last = row + 1
    while last < len(lines) and (depth_of(lines[last]) >= depth or not lines[last].strip()):
        if is_item(lines, last, depth):
            break
        last += 1
    words: list[Word] = []
    for index in range(first, last):
        key = COMMAND_KEY.match(lines[index])
        if key and depth_of(lines[index]) == depth:
            end = index + 1
            while end < last and (depth_of(lines[end]) > depth or lines[end].strip()[:1] == "-"):
                end += 1
            words += list_words(text, starts[index] + key.start("rest"), starts[end - 1] + len(lines[end - 1]))
    return words


def depth_of(line: str) -> int:
    """Where the first word of a line stands, behind the dash of a list's item."""
    plain = re.match(r"[ ]*(?:-[ ]+)?(?=[\w\"']+:)|[ ]*", line)
    return len(plain[0]) if plain and line.strip() else 0


def is_item(lines: Sequence[str], index: int, depth: int) -> bool:
    """Whether a line begins another item of the list that the place is in."""
    line = lines[index]
    return line.lstrip().startswith("- ") and depth_of(line) == depth and ":" in line


def environment(source: Source, parts: Stretches) -> Iterator[Finding]:
    """Names in the environment that another server reads."""
    for variable in variables():
        if variable.needs not in source.text or not any(name in source.text for name in variable.names):
            continue
        for match in re.finditer(rf"(?<![\w$])\$?\{{?(?P<it>{'|'.join(variable.names)})(?!\w)", source.text):
            if parts.at(match.start()).role != "comment":
                yield Finding(
                    rule="environment", start=match.start("it"), end=match.end("it"), found=match["it"],
                    what="setting of another server in the environment", becomes=variable.becomes, why=variable.why,
                )  # fmt: skip
