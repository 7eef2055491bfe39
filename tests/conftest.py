"""For all tests: property tests draw the same examples in every run, so that a failure is a change and not a draw."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
