"""Answers that would be too large are given up early, whatever makes them so."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from whit.contract.errors import Reason
from whit.server.errors import ServiceError
from whit.server.service import points as point_service
from whit.server.service import search as search_service

LIMIT_BYTES = 10_000
METADATA = json.dumps({"a": [0] * 100})  # 300 bytes here, 1,100 on the wire


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The metadata that were put into answers."""
    found: list[str] = []
    for module in (point_service, search_service):
        fill = module.fill_struct
        monkeypatch.setattr(
            module, "fill_struct", lambda struct, text, fill=fill: (found.append(text), fill(struct, text))
        )
    return found


def test_get_counts_metadata_and_stops_at_the_limit(filled: list[str]) -> None:
    stored = [SimpleNamespace(id="a", text="", metadata=METADATA)] * 1000
    handle: Any = SimpleNamespace(get=lambda *_, **__: (stored, [], None))

    with pytest.raises(ServiceError) as error:
        point_service._get(handle, ["a"] * 1000, False, LIMIT_BYTES)

    assert error.value.problem.reason is Reason.INVALID_REQUEST
    assert len(filled) < 12


def test_search_stops_at_the_limit_within_a_query(filled: list[str]) -> None:
    hits = [SimpleNamespace(id="a", score=1.0, text="", metadata=METADATA)] * 1000
    plan: Any = SimpleNamespace(
        handle=SimpleNamespace(search=lambda *_, **__: [hits]),
        limit=1000, score_threshold=None, exact=False, with_payload=True,
    )  # fmt: skip

    with pytest.raises(ServiceError) as error:
        search_service._find(plan, np.ones((1, 4), np.float32), LIMIT_BYTES, 0)

    assert error.value.problem.reason is Reason.INVALID_REQUEST
    assert len(filled) < 12
