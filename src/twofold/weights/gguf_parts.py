"""Which files make up a GGUF model: one, or the parts of a split one, which must all lie beside each other.

A part is called NAME-00002-of-00003.gguf and says so in its keys split.no (from 0), split.count and
split.tensors.count; the first part has all other keys. Source: llama.cpp, tools/gguf-split.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twofold.errors import CheckpointError
from twofold.weights.gguf import GgufFile

PART_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
PROJECTOR = "mmproj"
"""How files with the vision part of a model begin; they are not read."""
LISTED = 5


class GgufParts:
    """All tensors of a GGUF model by their names in the file, and its metadata.

    Raises what GgufFile raises, and CheckpointError when parts are missing or of different models.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = list(open_parts(path))
        self.metadata: dict[str, Any] = self.files[0].metadata
        self.homes: dict[str, GgufFile] = {}
        for file in self.files:
            for name in file.entries:
                if name in self.homes:
                    raise CheckpointError(
                        f"tensor {name!r} is in two files, {self.homes[name].path.name} and {file.path.name} of "
                        f"{path.parent}. Download the parts of one model again."
                    )
                self.homes[name] = file
        check_total(self.files, len(self.homes))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, rows first."""
        return self.homes[name].entries[name].shape

    def kind(self, name: str) -> str:
        """Type of a tensor, such as Q4_K."""
        return self.homes[name].entries[name].kind

    @property
    def kinds(self) -> Counter[str]:
        """How many tensors there are of each type, the most frequent first."""
        return Counter(dict(Counter(self.kind(name) for name in self.homes).most_common()))

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        entries = (file.entries[name] for name, file in self.homes.items())
        return sum(entry.end - entry.begin for entry in entries)


def find_gguf(folder: Path) -> Path | None:
    """The one GGUF model of a folder (its first part), None where there is none.

    Raises CheckpointError when there are several.
    """
    files = {path for path in folder.glob("*.gguf") if path.is_file() and not path.name.startswith(PROJECTOR)}
    models = {first_part(path) for path in files}
    if len(models) > 1:
        names = sorted(path.name for path in models)
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        raise CheckpointError(
            f"{folder} holds {len(models)} GGUF models: {', '.join(names[:LISTED])}{more}. Name one of the files."
        )
    return next(iter(models), None)


def first_part(path: Path) -> Path:
    """The first part of the model this file belongs to, by its name."""
    match = PART_NAME.fullmatch(path.name)
    return path.with_name(part_name(match[1], 1, int(match[3]))) if match else path


def part_name(stem: str, number: int, count: int) -> str:
    """File name of a part, counted from 1."""
    return f"{stem}-{number:05}-of-{count:05}.gguf"


def open_parts(path: Path) -> Iterator[GgufFile]:
    """Every file of the model in order, opened and checked."""
    first = first_part(path)
    file = GgufFile(first if first.exists() else path)
    count = max(1, split_number(file, "split.count", 1))
    match = PART_NAME.fullmatch(path.name)
    if count == 1 and (not match or int(match[3]) <= 1):
        yield file
        return
    if not match or int(match[3]) != count:
        raise CheckpointError(
            f"{path} is part {split_number(file, 'split.no', 0) + 1} of {count} by its key split.count, and is not "
            f"called {part_name('NAME', 1, count)} or the like. Give the parts their names back, or join them with "
            "llama-gguf-split --merge."
        )
    names = [part_name(match[1], number, count) for number in range(1, count + 1)]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        raise CheckpointError(
            f"{path.parent} lacks {len(missing)} of the {count} parts of this model: {', '.join(missing[:LISTED])}"
            f"{more}. Download them."
        )
    for index, name in enumerate(names):
        part = file if index == 0 else GgufFile(path.parent / name)
        found = split_number(part, "split.no", -1), split_number(part, "split.count", -1)
        if found != (index, count):
            raise CheckpointError(
                f"{part.path} says it is part {found[0] + 1} of {found[1]}; its name says {index + 1} of {count}. "
                "Download the parts of one model again."
            )
        yield part


def split_number(file: GgufFile, key: str, default: int) -> int:
    """A whole number among the metadata."""
    value = file.metadata.get(key, default)
    if type(value) is not int:
        raise CheckpointError(f"{file.path}: key {key!r} is {value!r}; a whole number was expected. Download it again.")
    return value


def check_total(files: Sequence[GgufFile], found: int) -> None:
    """All parts together hold the tensors the first one promises, and there is one at all."""
    if not found:
        raise CheckpointError(
            f"{files[0].path} holds no tensors; it is a vocabulary only. Name the file with the weights."
        )
    promised = split_number(files[0], "split.tensors.count", found)
    if len(files) > 1 and promised != found:
        raise CheckpointError(
            f"{files[0].path}: its parts hold {found} tensors, {promised} were promised. Download all parts again."
        )
