"""Structured log lines on stderr: a message with named fields, as text for people or as JSON for machines.

Fields are given as ``logger.info("served", extra={"fields": {"method": "/whit.v1..."}})``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z INFO whit.server.app: message key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it if there is one."""
        fields = "".join(f" {name}={_text(value)}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the record's fields, and ``traceback`` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        content: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False, default=str)


@contextmanager
def logging_to_stderr(log_format: str, log_level: str) -> Iterator[None]:
    """Sends what ``whit`` and gRPC log to stderr while the block runs; then all is as before."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(log_level.upper())
    # At debug level asyncio and gRPC would drown what whit has to say.
    loud = [logging.getLogger(name) for name in ("asyncio", "grpc")]
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(max(logging.INFO, root.level))
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        for logger, before in zip(loud, levels, strict=True):
            logger.setLevel(before)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, "fields", {})
    return fields


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return moment.removesuffix("+00:00") + "Z"


def _text(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c.isspace() or c in '"=' for c in text) else text
