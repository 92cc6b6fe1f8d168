"""JSON files of a model, read without guessing: one object, UTF-8, no key twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twofold.errors import CheckpointError

DOWNLOAD_AGAIN = "The file is damaged or incomplete; download it again."


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `data`; raises CheckpointError that begins with `where`."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is not UTF-8 text (byte {error.start}). {DOWNLOAD_AGAIN}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not valid JSON: {error}. {DOWNLOAD_AGAIN}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} holds a JSON {type(value).__name__}; an object was expected. {DOWNLOAD_AGAIN}")
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of the pairs; raises ValueError when a key comes twice."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"duplicate key {key!r}")
        result[key] = value
    return result


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The object in one of a model's JSON files; raises CheckpointError when it is missing or damaged."""
    path = Path(folder) / name
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{name} is missing in {folder}. A model folder holds config.json, tokenizer files and "
            "*.safetensors; give such a folder or download the model again."
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}. Check the path and its permissions."
        ) from error
    return parse_object(data, str(path))
