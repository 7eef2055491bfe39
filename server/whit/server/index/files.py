"""Directories and files made durable: the data directory's lock, fsync of directories, removal that a crash cannot halve."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_FILE = "whit.lock"
_NEW, _TRASH = ".new-", ".trash-"  # no collection id starts with a dot


class DataDirectoryLocked(OSError):  # noqa: N818  (it reads as what is the matter)
    """Another process serves this data directory. The message names the process and the directory."""


class DirectoryLock:
    """An exclusive lock on a directory, held until ``release`` or the end of the process, however it ends."""

    def __init__(self, directory: Path) -> None:
        self._file = (directory / LOCK_FILE).open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            pid = self._file.read(32).strip().decode("ascii", "replace") or "unknown"
            self._file.close()
            raise DataDirectoryLocked(
                f"data directory {directory} is in use by process {pid}; stop that process or give another directory with --data"
            ) from None
        except OSError:
            self._file.close()
            raise
        with suppress(OSError):  # it is for the message alone, and a full disk has no room for it
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n".encode("ascii"))

    def release(self) -> None:
        """Gives the directory free. The file stays: removing it would let two later processes lock different files."""
        self._file.close()


def fsync_path(path: Path) -> None:
    """Puts a file's bytes, or a directory's entries, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(path: Path) -> None:
    """Makes a directory, and those above it that are missing, durably."""
    if path.is_dir():
        return
    make_directories(path.parent)
    path.mkdir(exist_ok=True)
    fsync_path(path.parent)


@contextmanager
def staging_directory(parent: Path) -> Iterator[Path]:
    """Makes an empty directory below ``parent``, to be filled and then given its name by ``publish_directory``.

    It is removed if that does not come to pass.
    """
    path = parent / f"{_NEW}{secrets.token_hex(8)}"
    path.mkdir()
    try:
        yield path
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def publish_directory(staging: Path, name: str) -> Path:
    """Gives a filled staging directory its name, durably: after a crash it is there whole or not at all."""
    fsync_path(staging)
    published = staging.rename(staging.with_name(name))
    fsync_path(published.parent)
    return published


def remove_directory(path: Path) -> None:
    """Removes a directory so that a crash midway leaves only leftovers, which ``remove_leftovers`` finishes."""
    trash = path.rename(path.with_name(f"{_TRASH}{secrets.token_hex(8)}"))
    fsync_path(trash.parent)
    shutil.rmtree(trash, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Removes what a crash left of unfinished creations and removals below ``parent``."""
    for path in parent.iterdir():
        if path.name.startswith((_NEW, _TRASH)):
            shutil.rmtree(path, ignore_errors=True)
