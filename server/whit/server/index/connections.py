"""Connections to the SQLite file of a collection, all alike, and the one error of theirs that has a way around it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

_BUSY_TIMEOUT_S = 5.0
_CACHE_KIB = 1024  # pages each connection keeps; the operating system's cache does the rest


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection to the database at ``path``; ``mode`` is SQLite's: ``rw``, ``rwc`` or ``ro``.

    Raises:
        sqlite3.Error: as SQLite.
    """
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        isolation_level=None,  # transactions are begun and ended here, in plain sight
        timeout=_BUSY_TIMEOUT_S,
        check_same_thread=False,  # a connection serves one thread at a time
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def is_no_room_for_log_index(error: sqlite3.Error) -> bool:
    """Whether SQLite could not make the file beside a database that all its connections share."""
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE
