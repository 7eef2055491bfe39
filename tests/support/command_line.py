"""What one command line gave, run in this process; the fixture ``whit`` in ``tests/integration/conftest.py`` runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MODEL = "tiny-bert"  # the only model of the server that ``whit`` talks to


@dataclass(frozen=True)
class Outcome:
    """Exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Whit = Callable[..., Outcome]
