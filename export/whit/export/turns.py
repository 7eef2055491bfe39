"""Runs that write the same thing, one at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from whit.export.errors import CheckpointError
from whit.export.sealing import why


@contextmanager
def turn(out: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Keeps other runs from writing ``out`` meanwhile, by a lock on ``.NAME.lock`` beside it, which is gone afterwards.

    Where another run has the turn, ``waiting`` is called and then waited; None: it is refused. The turn of a process that is
    killed is over.

    Raises:
        CheckpointError: another run has it, or the lock cannot be made.
    """
    path = out.with_name(f".{out.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(path, waiting)
    except BlockingIOError:
        raise CheckpointError(f"another run is writing {out}; wait until it is done, or choose another place") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written ({why(error)}); choose another place") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path, waiting: Callable[[], None] | None) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is None:
                    raise
                waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(descriptor)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had the turn has removed the file: there is another one, or none
