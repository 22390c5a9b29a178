"""Logging: configured here and nowhere else. One line an event, constant message, ids as fields, never patient data."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_QUIET: Final = ("nats", "ray", "httpx", "httpcore", "uvicorn.access", "alembic", "asyncio")
# asyncio's word on how nats-py reads by TLS, each time that the server ends a connection; it is read to its end all the same
_NO_FAULT: Final = "returning true from eof_received() has no effect when using ssl"


class _Fields:
    """The `extra` fields of a record, the ones that are not logging's own."""

    @staticmethod
    def of(record: logging.LogRecord) -> dict[str, Any]:
        return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class TextFormatter(logging.Formatter):
    """For people: `2026-11-23T08:00:00Z INFO actors.host shard acquired shard=3 epoch=1`."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        fields = "".join(f" {name}={value}" for name, value in _Fields.of(record).items())
        return super().formatMessage(record) + fields


class JsonFormatter(logging.Formatter):
    """For machines: one JSON object a line."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_Fields.of(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry, enc_hook=str).decode()


def pass_over_what_is_no_fault() -> None:
    """For a command, which keeps no log: what a library says to the terminal though nothing is wrong."""
    logging.getLogger("asyncio").addFilter(_is_said)


def _is_said(record: logging.LogRecord) -> bool:
    return bool(record.msg != _NO_FAULT)


def configure_logging(level: str, log_format: str, file: Path | None = None) -> None:
    """Send all logs to `file`, or to standard error. Replaces what was configured before."""
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(file)
    handler.addFilter(_is_said)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
