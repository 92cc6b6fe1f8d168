"""From a folder, a GGUF file or a Hugging Face id to what lies on this machine; the hub's own cache is read in place.

    HUB_CACHE/models--ORG--NAME/refs/<revision>         text: a commit
                                snapshots/<commit>/...  the files, usually links into blobs/

The network is asked only when a needed file is not there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from twofold.errors import ModelNotFound
from twofold.weights.checkpoint import missing_shards

WANTED = ("*.json", "*.safetensors", "tokenizer.model", "*.jinja")
UNWANTED = ("original/*", "*.pth", "*.bin")
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9_][\w./-]{0,255}", re.ASCII)
TRUE_WORDS = ("1", "ON", "YES", "TRUE")


def resolve(path_or_id: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: an existing folder (or *.gguf file) as it is, else a hub id, from the cache or downloaded.

    `revision` is a branch, a tag or a commit of the hub (default main); a folder has none. Raises ModelNotFound, or
    CheckpointError when the index in the cache is damaged.
    """
    text = str(path_or_id)
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        return folder
    if folder.is_file() and folder.suffix == ".gguf":
        return folder
    if folder.is_file():
        raise ModelNotFound(
            f"{text} is a file; a model is a folder with config.json, tokenizer and *.safetensors, or a *.gguf file."
        )
    if looks_like_path(text) or isinstance(path_or_id, Path):
        raise ModelNotFound(f"there is no folder or file {text}. Check the path, or give a hub id such as org/name.")
    check_id(text)
    chosen = revision or "main"
    check_revision(chosen)
    cache = hub_cache(os.environ)
    snapshot = find_snapshot(cache, text, chosen)
    missing = missing_files(snapshot) if snapshot else ["all files"]
    if snapshot and not missing:
        return snapshot
    if is_offline(os.environ):
        raise ModelNotFound(
            f"{text} ({chosen}) is not complete in {cache}: missing {', '.join(missing)}. HF_HUB_OFFLINE or "
            f"TRANSFORMERS_OFFLINE forbids downloads; unset it, {how_to_bring(text)}"
        )
    return download(text, chosen, cache)


def looks_like_path(text: str) -> bool:
    """Whether a text can only be meant as a path, not as org/name."""
    return text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text


def check_id(text: str) -> None:
    """Raise ModelNotFound unless this is org/name as the hub writes it."""
    is_id = HUB_ID.fullmatch(text) and "--" not in text and ".." not in text and not text.endswith((".git", ".", "-"))
    if not is_id:
        raise ModelNotFound(
            f"{text!r} is neither a folder here nor a hub id. A hub id has the form org/name, such as "
            "meta-llama/Llama-3.2-1B-Instruct; a folder that is not below this one needs its full path."
        )


def check_revision(revision: str) -> None:
    """Raise ModelNotFound unless this can name a branch, tag or commit and stays inside the cache."""
    if not REVISION.fullmatch(revision) or ".." in revision or "//" in revision:
        raise ModelNotFound(f"revision {revision!r} is not the name of a branch or tag, nor a commit of the hub.")


def hub_cache(environment: Mapping[str, str]) -> Path:
    """The hub's cache folder, by the variables huggingface_hub honours."""
    cache = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    if not cache:
        base = environment.get("XDG_CACHE_HOME") or "~/.cache"
        home = environment.get("HF_HOME") or os.path.join(base, "huggingface")
        cache = os.path.join(home, "hub")
    return Path(os.path.expandvars(os.path.expanduser(cache)))


def is_offline(environment: Mapping[str, str]) -> bool:
    """Whether the user forbids network access."""
    return any(environment.get(name, "").upper() in TRUE_WORDS for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def find_snapshot(cache: Path, hub_id: str, revision: str) -> Path | None:
    """The cached folder of a revision; None when the cache does not know it."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    reference = repository / "refs" / revision
    try:
        commit = reference.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    if not re.fullmatch(r"\w[\w.-]*", commit, re.ASCII):
        return None
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def missing_files(folder: Path) -> list[str]:
    """What a model folder still needs: config, a tokenizer, every weight file; a damaged index is a CheckpointError."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in TOKENIZERS):
        missing.append(" or ".join(TOKENIZERS))
    if not any(folder.glob("*.safetensors*")):
        return [*missing, "*.safetensors"]
    return missing + missing_shards(folder)


def download(hub_id: str, revision: str, cache: Path) -> Path:
    """Fetch a model into the hub's cache; every failure becomes ModelNotFound with a remedy."""
    import huggingface_hub
    from huggingface_hub import errors

    # HfHubHTTPError's bases are the HTTP library's root error, whichever library that is, and OSError, which covers
    # refused connections, a full disk and LocalEntryNotFoundError. hf_xet, which moves the bytes, raises RuntimeError.
    failures: tuple[type[BaseException], ...] = (
        *errors.HfHubHTTPError.__bases__,
        OSError,
        errors.HFValidationError,
        RuntimeError,
    )
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                hub_id,
                revision=revision,
                cache_dir=cache,
                allow_patterns=list(WANTED),
                ignore_patterns=list(UNWANTED),
            )
        )
    except errors.GatedRepoError as error:
        raise ModelNotFound(
            f"{hub_id} is gated. Accept its licence at https://huggingface.co/{hub_id}, then set HF_TOKEN to a token "
            f"of that account, {how_to_bring(hub_id)}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(
            f"{hub_id} has no revision {revision!r}. Look at its branches and tags on the hub."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"the hub has no model {hub_id}, or it is private. Check the spelling; for a private model set HF_TOKEN."
        ) from error
    except failures as error:
        raise ModelNotFound(
            f"{hub_id} could not be downloaded into {cache}: {brief(error)} Check network and disk, "
            f"{how_to_bring(hub_id)}"
        ) from error
    missing = missing_files(folder)
    if missing:  # without a network the library returns an old, incomplete snapshot
        raise ModelNotFound(f"{hub_id} ({revision}) lacks {', '.join(missing)}, on the hub or because the download "
                            f"broke off. Try again, choose another repository, {how_to_bring(hub_id)}")  # fmt: skip
    return folder


def brief(error: BaseException) -> str:
    """The first line of an error, with its type: whole messages of the library run over pages."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}." if lines else f"{type(error).__name__}."


def how_to_bring(hub_id: str) -> str:
    """How to get a model's files without a download by twofold."""
    return (
        f"or run `hf download {hub_id}` (older name: huggingface-cli download) where there is a network and copy the "
        "cache, or give the path of a folder that holds the files."
    )
