"""What the operator of a server chooses."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from twofold.errors import SettingsError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ORIGIN = re.compile(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.\-]+)(:\d{1,5})?")
ROOT_PATH = re.compile(r"(/[A-Za-z0-9_.~\-]+)*")


@dataclass(frozen=True, kw_only=True)
class Tls:
    """A certificate chain and its key, in PEM files. password: of the key, "" for one that is not encrypted.

    Raises SettingsError when they cannot be read, or do not belong together.
    """

    certificate: Path
    key: Path
    password: str = field(default="", repr=False)
    context: ssl.SSLContext = field(init=False, repr=False)

    def __post_init__(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certificate, self.key, lambda: self.password)  # without it, openssl asks
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"the certificate {self.certificate} with the key {self.key} cannot be used: {error}. "
                "Two PEM files that belong together were expected, and the password of the key if it has one."
            ) from error
        object.__setattr__(self, "context", context)


LEAST_ONE = (
    "max_body_bytes",
    "max_choices",
    "buffered_tokens",
    "key_requests",
    "max_connections",
    "max_header_bytes",
    "key_requests_per_minute",
    "key_tokens_per_minute",
)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """host and port to bind (port 0: any free one). api_keys: with at least one, every route but /health is closed.

    max_body_bytes, max_messages, max_choices (n), max_prompts, max_tools, max_stops: limits of one request.
    max_waiting: requests that wait beyond those being served. buffered_tokens: what a slow reader may leave unread.
    key_requests: most requests of one API key at once. grace_s: how long running requests may go on after SIGTERM.
    body_timeout_s: how long a client may take to send the body of its request; header_timeout_s: the head of it, and
    the handshake of TLS; idle_timeout_s: how long a connection may rest between requests, or a reader not read.
    max_connections: those open at once. max_header_bytes: of one request's head. trusts_templates: whether requests may
    bring a chat template of their own. root_path: where a proxy serves us, like "/llm". cors_origins: pages of which
    origins may read answers; "*" for all, which needs keys. key_requests_per_minute, key_tokens_per_minute: of one key,
    None for no limit; without keys, of all clients together.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    max_body_bytes: int = 8 * 2**20
    max_messages: int = 4096
    max_choices: int = 16
    max_prompts: int = 64
    max_tools: int = 128
    max_stops: int = 16
    max_waiting: int = 256
    buffered_tokens: int = 4096
    key_requests: int = 1024
    grace_s: float = 30.0
    body_timeout_s: float = 30.0
    header_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0
    max_connections: int = 1024
    max_header_bytes: int = 64 * 2**10
    tls: Tls | None = None
    trusts_templates: bool = False
    root_path: str = ""
    cors_origins: tuple[str, ...] = ()
    key_requests_per_minute: int | None = None
    key_tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise SettingsError(f"port is {self.port}; it must be from 0 to 65535")
        if not all(key.strip() == key and len(key) >= 8 and key.isascii() for key in self.api_keys):
            raise SettingsError("an API key must have at least 8 ASCII characters and no space around it")
        for name in LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least 1")
        self._check_paths()
        if self.max_waiting < 0 or self.grace_s < 0:
            raise SettingsError("max_waiting and grace_s cannot be negative")
        for name in ("body_timeout_s", "header_timeout_s", "idle_timeout_s"):
            if not 0 < getattr(self, name) < 86_400:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be above 0 and less than a day")

    def _check_paths(self) -> None:
        if not ROOT_PATH.fullmatch(self.root_path):
            raise SettingsError(f"root_path is {self.root_path!r}; a path like /llm was expected, with no / at its end")
        wrong = [origin for origin in self.cors_origins if origin != "*" and not ORIGIN.fullmatch(origin)]
        if wrong:
            raise SettingsError(f"the origin {wrong[0]!r} is none; one like https://app.example.com was expected")
        if "*" in self.cors_origins and not self.api_keys:
            raise SettingsError(
                "every page of every browser could use this server: a cors_origin of * needs an API key. Set one, or "
                "name the origins."
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in LOOPBACK
