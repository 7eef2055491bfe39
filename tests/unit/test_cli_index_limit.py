"""How long a passage ``whit index`` makes, from what the model counts as a token."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from whit.cli.index import passage_limit


@pytest.mark.parametrize(
    ("architecture", "max_token_count", "characters"),
    [
        ("bert", 256, 768),
        ("static", 512, 1536),
        ("static-ngrams", 4096, 2048),
        ("bert", 8, 96),
        ("static-ngrams", 8, 50),
    ],
)
def test_a_passage_is_about_what_the_model_reads(architecture: str, max_token_count: int, characters: int) -> None:
    model = SimpleNamespace(fingerprint="sha256:1", architecture=architecture, max_token_count=max_token_count)
    client = SimpleNamespace(models=lambda: [model])

    assert passage_limit(cast("Any", client), cast("Any", SimpleNamespace(fingerprint="sha256:1"))) == characters
