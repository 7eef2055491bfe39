"""For all tests: property tests draw the same examples in every run, so that a failure is a change and not a draw.

numpy and torch compute in one thread, in commands that tests start, too: the matrices of tiny models are too small to share,
and threads that wait for their part of one burn more time than it takes. A server's worker threads are not meant.
"""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings

missing = [name for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS") if name not in os.environ]
os.environ |= dict.fromkeys(missing, "1")
assert not missing or "numpy" not in sys.modules, (
    f"a pytest plugin imported numpy before {' and '.join(missing)} could be set: set to 1 in the environment, or turn the "
    "plugin off with -p no:NAME"
)

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# The first of them compiles the reference model, which takes a minute on two free cores.
REFERENCE_TIMEOUT_S = 400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("reference"):
            item.add_marker(pytest.mark.timeout(REFERENCE_TIMEOUT_S))
