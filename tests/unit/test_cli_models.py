"""Tables of models."""

from __future__ import annotations

import pytest

from whit.cli.models import models_table
from whit.cli.output import console
from whit.client import Model


def model(layer_counts: tuple[int, ...] = ()) -> Model:
    return Model(
        name="all-MiniLM-L6-v2",
        fingerprint="sha256:" + "0" * 64,
        architecture="bert",
        dimension_count=384,
        matryoshka_dimension_counts=(),
        max_token_count=256,
        pooling="mean",
        prompts={"query": "find: ", "document": ""},
        dtype="int8",
        provider="CPUExecutionProvider",
        verified=True,
        size_bytes=23_400_000,
        layer_counts=layer_counts,
    )


def test_the_provider_is_shown_in_one_piece(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(models_table([model()]))

    assert " CPUExecutionProvider " in capsys.readouterr().out


def test_layers_are_shown_where_a_model_has_a_choice() -> None:
    assert "layers" not in [column.header for column in models_table([model()]).columns]
    assert "layers" in [column.header for column in models_table([model(), model((2, 6))]).columns]
