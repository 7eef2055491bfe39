"""For all tests: property tests draw the same examples in every run, so that a failure is a change and not a draw."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# The first of them compiles the reference model, which takes a minute on two free cores.
REFERENCE_TIMEOUT_S = 400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("reference"):
            item.add_marker(pytest.mark.timeout(REFERENCE_TIMEOUT_S))
