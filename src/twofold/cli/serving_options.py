"""The options of `twofold serve` that say where it listens, who may come in, and how much one client may take."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twofold.errors import SettingsError

if TYPE_CHECKING:
    from twofold.engine.sessions import SessionLimits
    from twofold.server.settings import ServerSettings, Tls

NEEDED = ("starlette", "uvicorn", "msgspec", "prometheus_client", "llguidance")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

NETWORK = (
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: the network."),
    click.option("--port", default=8000, show_default=True, help="Port to listen on; 0 takes a free one."),
    click.option("--root-path", default="", metavar="PATH", help="Path under which a proxy serves this server: /llm."),
    click.option(
        "--cors-origin", "cors_origins", multiple=True, metavar="ORIGIN",
        help="Origin whose pages may use the server, like https://app.example.com; may be given several times. "
        "* is every page, and needs an API key. [default: none]",
    ),
    click.option("--ssl-certfile", type=FILE, help="PEM file with the certificate (and its chain); makes it https."),
    click.option("--ssl-keyfile", type=FILE, help="PEM file with the certificate's key."),
    click.option("--ssl-password-file", type=FILE, help="File whose first line is the password of the key."),
)  # fmt: skip
KEYS = (
    click.option(
        "--api-key", "api_keys", multiple=True, envvar="TWOFOLD_API_KEY",
        help="Key that clients must send; may be given several times. Closes every route but /health.",
    ),
    click.option("--api-key-file", type=FILE, help="File with one key per line."),
    click.option(
        "--key-max-requests", default=1024, show_default=True, help="Most requests of one key at once; more get 429."
    ),
    click.option(
        "--key-requests-per-minute", type=int, metavar="N",
        help="Most requests of one key per minute. [default: no limit]",
    ),
    click.option(
        "--key-tokens-per-minute", type=int, metavar="N",
        help="Most tokens per minute of one key, read and written together. [default: no limit]",
    ),
)  # fmt: skip
MODELS = (
    click.option("--served-model-name", multiple=True, help="Name clients use. [default: MODEL]"),
    click.option("--max-num-seqs", type=int, help="Most requests in one batch. [default: 64]"),
    click.option("--max-num-batched-tokens", type=int, help="Most tokens in one step. [default: 512]"),
    click.option(
        "--max-step-ms", type=int, default=200, show_default=True,
        help="Milliseconds a step may take to read prompts while others are answered; 0 sets no limit.",
    ),
)  # fmt: skip
LIMITS = (
    click.option("--max-waiting", default=256, show_default=True, help="Most requests that wait; more get 429."),
    click.option("--max-connections", default=1024, show_default=True, help="Most open connections; more get 503."),
    click.option(
        "--header-timeout", default=10.0, show_default=True,
        help="Seconds a client has to send the head of a request; the connection is closed after them.",
    ),
    click.option(
        "--idle-timeout", default=75.0, show_default=True,
        help="Seconds a connection may rest between two requests, or a client may read nothing.",
    ),
    click.option("--grace", default=30.0, show_default=True, help="Seconds running requests may go on after SIGTERM."),
)  # fmt: skip
SESSIONS = (
    click.option(
        "--session-dir", type=click.Path(file_okay=False, path_type=Path),
        help="Keep what was computed for requests with a session_id in this folder, beyond the cache and restarts.",
    ),
    click.option(
        "--session-space", default="8GiB", show_default=True,
        help="What kept sessions may take on the disk; the least recently used go first.",
    ),
)  # fmt: skip
SERVING = (*NETWORK, *KEYS, *MODELS, *LIMITS, *SESSIONS)


def check_installed() -> None:
    """Raise SettingsError unless what the server is made of is there."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"{', '.join(missing)} not installed; the server needs: pip install 'twofold[serve]' "
            "(in a checkout: pip install '.[serve]')"
        )


def read_settings(options: Mapping[str, Any]) -> ServerSettings:
    """What the options say. Raises SettingsError."""
    from twofold.server.settings import ServerSettings

    return ServerSettings(
        host=options["host"],
        port=options["port"],
        tls=read_tls(options["ssl_certfile"], options["ssl_keyfile"], options["ssl_password_file"]),
        root_path=options["root_path"],
        cors_origins=options["cors_origins"],
        key_requests=options["key_max_requests"],
        key_requests_per_minute=options["key_requests_per_minute"],
        key_tokens_per_minute=options["key_tokens_per_minute"],
        api_keys=(*options["api_keys"], *read_keys(options["api_key_file"])),
        max_waiting=options["max_waiting"],
        max_connections=options["max_connections"],
        header_timeout_s=options["header_timeout"],
        idle_timeout_s=options["idle_timeout"],
        trusts_templates=options["trust_request_chat_template"],
        grace_s=options["grace"],
    )


def read_session_limits(folder: Path | None, space: str) -> SessionLimits:
    """What sessions may take, and a folder made for them. Raises SettingsError."""
    from twofold.engine.sessions import SessionLimits
    from twofold.quant.budget import parse_budget

    try:
        budget = parse_budget(space)
    except SettingsError:
        budget = None
    if budget is None or budget.kind != "bytes":
        raise SettingsError(f"--session-space is {space!r}; a size was expected, as 8GiB or 500MB")
    if folder is not None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"--session-dir {folder} cannot be made: {error.strerror or error}") from error
    return SessionLimits(most_bytes=int(budget.amount))


def read_keys(path: Path | None) -> list[str]:
    """Keys of a file, one per line; empty lines and lines that begin with # do not count."""
    lines = path.read_text("utf-8").splitlines() if path else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def read_tls(certificate: Path | None, key: Path | None, password_file: Path | None) -> Tls | None:
    """The certificate to serve with, None for plain HTTP. Raises SettingsError when a part of it is missing."""
    from twofold.server.settings import Tls

    if certificate is None and key is None and password_file is None:
        return None
    if certificate is None or key is None:
        raise SettingsError("https needs both --ssl-certfile and --ssl-keyfile; give the other one too")
    lines = password_file.read_text("utf-8").splitlines() if password_file else []
    return Tls(certificate=certificate, key=key, password=lines[0] if lines else "")
