"""A full disk: a limit on the size of files stands in for it. Writes fail in the same place, with "file too large"."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT_BYTES = 8192


@contextmanager
def full_disk() -> Iterator[None]:
    """No file grows beyond ``LIMIT_BYTES``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
