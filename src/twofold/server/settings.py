"""What the operator of a server chooses."""

from __future__ import annotations

from dataclasses import dataclass

from twofold.errors import SettingsError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """host and port to bind (port 0: any free one). api_keys: with at least one, every route but /health is closed.

    max_body_bytes, max_messages, max_choices (n), max_prompts, max_tools, max_stops: limits of one request.
    max_waiting: requests that wait beyond those being served. buffered_tokens: what a slow reader may leave unread.
    key_requests: most requests of one API key at once. grace_s: how long running requests may go on after SIGTERM.
    body_timeout_s: how long a client may take to send its request.
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

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise SettingsError(f"port is {self.port}; it must be from 0 to 65535")
        if not all(key.strip() == key and len(key) >= 8 and key.isascii() for key in self.api_keys):
            raise SettingsError("an API key must have at least 8 ASCII characters and no space around it")
        for name in ("max_body_bytes", "max_choices", "buffered_tokens", "key_requests"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_waiting < 0 or self.grace_s < 0:
            raise SettingsError("max_waiting and grace_s cannot be negative")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in LOOPBACK
