"""Applies the rules to one file, and decides what a machine may change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from twofold.migrate.files import Source
from twofold.migrate.findings import Finding
from twofold.migrate.numbers import bare_numbers, python_numbers, text_numbers
from twofold.migrate.rules import Rule
from twofold.migrate.stretches import Stretch, Stretches

OTHERS = re.compile(
    r"<\|im_start\|>|<\|im_end\|>|<start_of_turn>|<\|header_start\|>|<\|eot\|>|<\|endoftext\|>|<\|end\|>|\[TOOL_CALLS\]"
    r"|<\|assistant\|>|\b(?:200005|200006|200007|200008|151643|151645|202048)\b"
)
"""Marks and ids of other models, Llama 4's among them: a file with one of them knows several families."""
LLAMA = re.compile(r"(?i)\bllama|start_header_id|eot_id")
SPEAKS = re.compile(r"(?i)\bllama[ \-]?[23]\b|\bllama 3\.\d")
IN_TESTS = re.compile(
    r"(?i)(?:^|/)(?:tests?|__tests__|testdata|test_data|fixtures?|snapshots?|spec|cassettes|goldens?)/"
    r"|(?:^|/)(?:test_[^/]*|[^/]*_test|conftest)\.py$|\.(?:test|spec)\.[jt]sx?$"
)
OF_LLAMA_3 = re.compile(r"(?i)llama[_\-]?[23](?!\d)")
OWN_MODEL = re.compile(r"\bPre[tT]rainedConfig\b|\bclass \w+\(\w*Config\)")
NAMES = ("gguf-file", "llama3-model", "llama2-model", "ollama-model")
SIGNS = (
    *("llama", "_id|", "_id\\", "python_tag", "reserved_special", "inst]", "sys>>", "header_start", "chat_template"),
    *("cutting knowledge", "environment: ipython", "a function call", "<function=", "logit_bias", "vllm", "11434"),
    *("text_generation", "text-generation", "textgen", "inferenceclient", "/generate", "chathuggingface"),
    *("huggingfaceendpoint", "beam_search", "best_of", "8192", "12800", "128_00", "128256", "128_256", "hugging"),
    *("max_concurrent_requests", "8_192"),
)
"""In small letters; a file without any of them has nothing that is looked for. Looking for them takes no time."""
SURE_OF_LITTLE = frozenset(("128001", "128006", "128007", "128008", "128009", "128010", "128256"))


def has_signs(source: Source) -> bool:
    """Whether there may be something to find."""
    small = source.text.lower()
    return source.kind == "modelfile" or any(sign in small for sign in SIGNS)


def findings_of(source: Source, parts: Stretches, rules: Iterable[Rule]) -> list[Finding]:
    """What the rules find in a file, in order of place."""
    chosen = [rule for rule in rules if rule.is_for(source.kind)]
    found = [*matched(source, parts, chosen), *numbered(source, parts, chosen)]
    found += bare(source, parts, chosen, {item.start for item in found})
    doubt = doubt_about(source, parts)
    return [doubted(item, source, parts, doubt) for item in without_doubles(found, source.text)]


def matched(source: Source, parts: Stretches, rules: Iterable[Rule]) -> Iterator[Finding]:
    """Findings of rules with a pattern."""
    for rule in rules:
        for match in rule.pattern.finditer(source.text) if rule.pattern else ():
            start, end = match.span("it") if "it" in match.re.groupindex else match.span()
            role = parts.at(start).role
            if role != "comment" and role not in rule.roles:
                continue
            if role == "comment" and (rule.once or "text" not in rule.roles or "string" not in rule.roles):
                continue
            yield finding(rule, source.text, start, end)
            if rule.once:
                break


def numbered(source: Source, parts: Stretches, rules: Iterable[Rule]) -> Iterator[Finding]:
    """Findings of rules about a number of a setting."""
    is_python = source.kind == "python" and parts.is_parsed
    numbers = list(python_numbers(source.text) if is_python else text_numbers(source.text))
    for rule in rules:
        for number in numbers:
            if rule.keys and number.value == rule.number and rule.keys.match(number.key):
                yield finding(rule, source.text, number.start, number.end)


def bare(source: Source, parts: Stretches, rules: Iterable[Rule], known: set[int]) -> Iterator[Finding]:
    """Ids of Llama 3 that stand for themselves, in a file that speaks of Llama: told, never changed."""
    by_number = {rule.number: rule for rule in rules if rule.number and str(rule.number) in SURE_OF_LITTLE}
    if not by_number or not LLAMA.search(source.text):
        return
    for number in bare_numbers(source.text):
        rule = by_number.get(number.value)
        if rule and number.start not in known and parts.at(number.start).role != "comment":
            said = finding(rule, source.text, number.start, number.end)
            why = f"if it is {rule.what}: {rule.why}"
            yield replace(said, replacement=None, confidence="low", what=f"number that may be {rule.what}", why=why)


def finding(rule: Rule, text: str, start: int, end: int) -> Finding:
    """What a rule says of a place."""
    is_doubtful = rule.doubt is not None and rule.doubt.search(text) is not None
    return Finding(
        rule=rule.name, start=start, end=end, found=text[start:end], what=rule.what, becomes=rule.becomes, why=rule.why,
        confidence="low" if is_doubtful else rule.confidence, replacement=rule.put,
    )  # fmt: skip


def doubt_about(source: Source, parts: Stretches) -> str:
    """Why nothing of a file may be changed by a machine; "" where it may."""
    if IN_TESTS.search(source.name):
        return "this is a test or a fixture: it may be meant to say what the old system says"
    if source.kind == "notebook":
        return "this is a notebook: its outputs are records"
    if OWN_MODEL.search(source.text):
        return "this file defines a model of its own, which may share Llama 3's vocabulary"
    if OF_LLAMA_3.search(source.name):
        return "the file's name speaks of Llama 2 or 3: it may be meant for it alone"
    if not parts.is_parsed:
        return "this file does not parse"
    other = OTHERS.search(source.text)
    return f"this file knows other models too ({other[0]})" if other else ""


def doubted(item: Finding, source: Source, parts: Stretches, doubt: str) -> Finding:
    """A finding that a machine may not act on where there is doubt about its file or its text."""
    part = parts.at(item.start)
    if part.role == "comment":
        return replace(item, replacement=None, confidence="low", why=f"it stands in a comment. {item.why}")
    if item.replacement is None:
        return item
    if not doubt and SPEAKS.search(around(source.text, part, item)):
        doubt = "the text around it speaks of Llama by name"
    return replace(item, replacement=None, confidence="low", why=f"{doubt}. {item.why}") if doubt else item


def around(text: str, part: Stretch, item: Finding) -> str:
    """The string a finding stands in, or its line where the file is not split into strings."""
    if part.role == "string":
        return text[part.start : part.end]
    end = text.find("\n", item.end)
    return text[text.rfind("\n", 0, item.start) + 1 : end if end >= 0 else len(text)]


def without_doubles(found: list[Finding], text: str) -> list[Finding]:
    """In order of place; of what a person must look at, one finding of a rule per line, and the longer of two names."""
    kept: list[Finding] = []
    end, seen = 0, set()
    for item in sorted(found, key=lambda item: (item.start, -item.end)):
        line = (item.rule, text.rfind("\n", 0, item.start))
        is_name = item.rule in NAMES
        if item.replacement is None and (line in seen or (is_name and item.start < end)):
            continue
        seen.add(line)
        kept.append(item)
        end = item.end if is_name else end
    return kept
