"""How the index refuses: what SQLite and the file system raise becomes a ``ServiceError`` that says what to do."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whit.contract.errors import FieldViolation, Problem, Reason
from whit.server.errors import ServiceError
from whit.server.index.connections import is_no_room_for_log_index
from whit.server.index.files import DataDirectoryLocked

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def refusal(reason: Reason, message: str, field: str = "") -> ServiceError:
    """A ``ServiceError``; with ``field``, the message is also the violation of that field."""
    violations = (FieldViolation(field, message),) if field else ()
    return ServiceError(Problem(reason, message, violations))


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translates storage errors from work on ``path``, a collection's directory or the data directory.

    Raises:
        ServiceError: STORAGE_FULL if there is no room, STORAGE_FAILED for every other failure of disk or database.
    """
    try:
        yield
    except (sqlite3.ProgrammingError, DataDirectoryLocked):
        raise  # a defect of this program; an answer of its own
    except sqlite3.DatabaseError as error:
        raise _from_sqlite(error, path) from error
    except OSError as error:
        if error.errno in _FULL:
            raise _full(path, str(error)) from error
        message = f"storage in {path} failed: {error}; check the disk and the directory's permissions, then retry"
        raise refusal(Reason.STORAGE_FAILED, message) from error


def damaged(path: Path, detail: str) -> ServiceError:
    """STORAGE_FAILED: the collection in ``path`` cannot be read any more."""
    return refusal(
        Reason.STORAGE_FAILED,
        f"the collection in {path} is damaged: {detail}; stop the server and restore this directory from a backup, "
        "or delete the collection and index it again",
    )


def _full(path: Path, detail: str) -> ServiceError:
    return refusal(
        Reason.STORAGE_FULL,
        f"no room on disk for {path}: {detail}; nothing of this call was written; free some space, then send it again",
    )


def _from_sqlite(error: sqlite3.DatabaseError, path: Path) -> ServiceError:
    if is_no_room_for_log_index(error):
        return _full(path, str(error))
    # The low byte is the primary code (https://sqlite.org/rescode.html). Errors raised by the Python module have none.
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return _full(path, str(error))
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(path, str(error))
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            advice = "another program has the database open; end it, then retry"
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            advice = (
                "the disk may be full, failing or read-only, or this process has too many files open (ulimit -n); "
                "check these and the directory's permissions, then retry"
            )
        case _:
            advice = (
                "check the disk; if it is sound, restore this directory from a backup or index the collection again"
            )
    return refusal(
        Reason.STORAGE_FAILED, f"storage in {path} failed: {error}; nothing of this call was written; {advice}"
    )
