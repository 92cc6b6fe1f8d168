import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twofold.errors import ModelNotFound
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.hub import hub_cache, is_offline, resolve

from .make import write_arrays

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_VARIABLES = (
    "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection fails loudly, and the environment says nothing about the hub."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the network was used")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in HUB_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(path))
    return path


def fill(cache: Path, hub_id: str = "org/name", *, links: bool = True, reference: str | None = "main") -> Path:
    """A complete model in the hub's cache; returns its snapshot."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / COMMIT
    write_arrays(blobs if links else snapshot, {"a": np.ones((2, 2), np.float32), "b": np.ones(3, np.float32)}, 2)
    for name in ("config.json", "tokenizer.json"):
        ((blobs if links else snapshot) / name).write_text("{}")
    if links:
        snapshot.mkdir(parents=True)
        for path in blobs.iterdir():
            (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    if reference:
        path = repository / "refs" / reference
        path.parent.mkdir(parents=True)
        path.write_text(COMMIT)
    return snapshot


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    import huggingface_hub

    def raising(*args: Any, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising)


# What is here needs no network ---------------------------------------------------------------------------------------


def test_importing_weights_does_not_import_the_hub_library() -> None:
    code = "import sys, twofold.weights.hub, twofold.weights.load; sys.exit('huggingface_hub' in sys.modules)"
    source = str(Path(__file__).parents[2] / "src")
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": source}).returncode == 0


def test_an_existing_folder_wins(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cache)
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("org/name") == Path("org/name")
    assert resolve(tmp_path) == tmp_path


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve("~/model") == tmp_path / "model"


@pytest.mark.parametrize("links", [True, False])
def test_a_cached_model_is_read_in_place(cache: Path, links: bool) -> None:
    snapshot = fill(cache, links=links)
    assert resolve("org/name") == snapshot
    assert set(Checkpoint.open(resolve("org/name")).names) == {"a", "b"}


@pytest.mark.parametrize("reference", ["v1.0", "refs/pr/1", "feature/x"])
def test_a_branch_or_tag_is_followed(cache: Path, reference: str) -> None:
    snapshot = fill(cache, reference=reference)
    assert resolve("org/name", reference) == snapshot


def test_a_commit_needs_no_reference(cache: Path) -> None:
    snapshot = fill(cache, reference=None)
    assert resolve("org/name", COMMIT) == snapshot


def test_a_tokenizer_model_is_a_tokenizer(cache: Path) -> None:
    snapshot = fill(cache)
    (snapshot / "tokenizer.json").rename(snapshot / "tokenizer.model")
    assert resolve("org/name") == snapshot


def test_the_cache_is_where_the_library_keeps_it() -> None:
    home = str(Path.home())
    assert str(hub_cache({})) == f"{home}/.cache/huggingface/hub"
    assert str(hub_cache({"XDG_CACHE_HOME": "/x"})) == "/x/huggingface/hub"
    assert str(hub_cache({"HF_HOME": "~/h", "XDG_CACHE_HOME": "/x"})) == f"{home}/h/hub"
    assert str(hub_cache({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/h"})) == "/old"
    assert str(hub_cache({"HF_HUB_CACHE": "/new", "HUGGINGFACE_HUB_CACHE": "/old"})) == "/new"


# Offline -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1", "ON", "yes", "True"])
@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_flags_in_any_case(name: str, value: str) -> None:
    assert is_offline({name: value})
    assert not is_offline({name: "0"})


def test_offline_and_absent_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFound, match=r"org/name.*missing all files.*HF_HUB_OFFLINE.*hf download org/name"):
        resolve("org/name")


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer.json or tokenizer.model"),
        ("model-00002-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    ],
)
def test_offline_and_incomplete_names_what_is_missing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, reported: str
) -> None:
    (fill(cache) / name).unlink()
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "YES")
    with pytest.raises(ModelNotFound, match=f"missing {reported}"):
        resolve("org/name")


def test_an_unfinished_blob_counts_as_missing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = fill(cache)
    (snapshot / "model-00001-of-00002.safetensors").resolve().unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFound, match=r"missing model-00001-of-00002\.safetensors"):
        resolve("org/name")


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["./none", "../none", "/none/at/all", "~/none-such-model", "a/b/c", "a\\b"])
def test_what_looks_like_a_path_is_not_asked_of_the_hub(cache: Path, text: str) -> None:
    with pytest.raises(ModelNotFound, match="there is no folder or file"):
        resolve(text)


def test_a_path_object_is_never_a_hub_id(cache: Path) -> None:
    fill(cache)
    with pytest.raises(ModelNotFound, match="there is no folder or file"):
        resolve(Path("org/name"))


@pytest.mark.parametrize("text", ["", "name", "org/", "org/na me", "org/a--b", "org/..", "org/a.git", "-o/x", "örg/x"])
def test_what_is_no_hub_id_is_refused(cache: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound):
        resolve(text)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ModelNotFound, match="is a file"):
        resolve(tmp_path / "model.bin")


def test_a_gguf_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    assert resolve(tmp_path / "model.gguf") == resolve(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"


@pytest.mark.parametrize("revision", ["../../x", "/etc", "a//b", "a b"])
def test_a_revision_stays_inside_the_cache(cache: Path, revision: str) -> None:
    with pytest.raises(ModelNotFound, match="revision"):
        resolve("org/name", revision)


def test_a_reference_cannot_lead_out_of_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cache)
    (cache / "models--org--name" / "refs" / "main").write_text("../../../outside")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFound, match="missing all files"):
        resolve("org/name")


# Downloads -----------------------------------------------------------------------------------------------------------


def test_a_download_asks_for_what_a_model_needs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def download(hub_id: str, **options: Any) -> str:
        asked.update(options, hub_id=hub_id)
        return str(fill(cache))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("org/name", "v2").name == COMMIT
    assert asked["hub_id"] == "org/name"
    assert asked["revision"] == "v2"
    assert asked["cache_dir"] == cache
    assert {"*.safetensors", "*.json", "tokenizer.model", "*.jinja"} == set(asked["allow_patterns"])
    assert {"original/*", "*.pth", "*.bin"} == set(asked["ignore_patterns"])


def test_a_download_that_leaves_holes_is_no_success(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    snapshot = fill(cache)
    (snapshot / "tokenizer.json").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **options: str(snapshot))
    with pytest.raises(ModelNotFound, match=r"lacks tokenizer\.json or tokenizer\.model"):
        resolve("org/name")


def hub_errors() -> list[tuple[BaseException, str]]:
    from huggingface_hub import errors

    root = errors.HfHubHTTPError.__bases__[0]

    def answered(kind: Any, message: str) -> BaseException:
        error: BaseException = kind.__new__(kind)  # the constructor wants the HTTP library's response
        error.args = (message,)
        return error

    return [
        (answered(errors.GatedRepoError, "403"), r"gated.*licence.*HF_TOKEN"),
        (answered(errors.RepositoryNotFoundError, "404"), r"no model org/name.*HF_TOKEN"),
        (answered(errors.RevisionNotFoundError, "404"), r"no revision 'main'"),
        (answered(errors.HfHubHTTPError, "500 Server Error\nlong\ntext"), r"500 Server Error\. Check network"),
        (errors.LocalEntryNotFoundError("no connection"), r"no connection.*hf download org/name"),
        (errors.OfflineModeIsEnabled("offline"), "offline"),
        (errors.HFValidationError("bad id"), "bad id"),
        (root("timed out"), "timed out"),
        (ConnectionRefusedError(111, "refused"), "refused"),
        (OSError(28, "No space left on device"), "No space left"),
        (RuntimeError("Data processing error"), "Data processing error"),
    ]


@pytest.mark.parametrize(("error", "words"), hub_errors(), ids=lambda value: type(value).__name__)
def test_every_failure_of_the_library_becomes_ours(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, words: str
) -> None:
    fail_with(monkeypatch, error)
    with pytest.raises(ModelNotFound, match=words) as caught:
        resolve("org/name")
    assert "\n" not in str(caught.value)


def test_without_a_network_the_real_library_fails_as_ours(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    with pytest.raises(ModelNotFound, match="could not be downloaded"):
        resolve("org/name")
