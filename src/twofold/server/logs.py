"""Log lines, all of one form: text for people or JSON for machines. Nothing a client wrote is ever part of one."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

FORMS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
PLAIN = re.compile(r"[^\s\"=]+")
Fields = Mapping[str, Any]


def fields(**values: Any) -> dict[str, Fields]:
    """The `extra` of a logging call: what the line says beside its message. None is left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


class Form(logging.Formatter):
    """What both forms have in common."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """UTC to the millisecond, ISO 8601."""
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"

    def fields_of(self, record: logging.LogRecord) -> Fields:
        """What `fields` gave."""
        found: Fields = getattr(record, "fields", {})
        return found


class TextForm(Form):
    """TIME LEVEL LOGGER MESSAGE name=value ..., then the traceback if there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line."""
        named = [f"{name}={shown(value)}" for name, value in self.fields_of(record).items()]
        parts = [self.formatTime(record), record.levelname, record.name, record.message, *named]
        return " ".join(parts)


class JsonForm(Form):
    """One object a line: time, level, logger, message, the fields, and the traceback as `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self.fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def shown(value: Any) -> str:
    """A field's value in text, quoted where it would break the line up."""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def configure(form: str, level: str) -> None:
    """Send all lines to stderr in this form, those of uvicorn and the engine too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonForm() if form == "json" else TextForm())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    if level != "debug":
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it greets and says goodbye at length
    logging.captureWarnings(True)
