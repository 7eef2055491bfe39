"""Clients and commands against a server that says what this version does not know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import KINDS, open_client
from tests.support.scripted import Script, scripted_server
from whit.cli.app import run
from whit.v1 import collection_pb2

NUMBER = 77


@pytest.fixture
def address() -> Iterator[str]:
    later = collection_pb2.Collection(
        name="collections/later",
        model="models/m",
        model_fingerprint="sha256:0",
        dimension_count=4,
        storage=NUMBER,  # type: ignore[arg-type]
    )
    with scripted_server(Script(collections=[later])) as address:
        yield address


@pytest.mark.parametrize("kind", KINDS)
def test_a_storage_of_the_future_is_unknown_and_not_another(kind: str, address: str) -> None:
    with open_client(kind, address) as whit:
        assert [collection.storage for collection in whit.collections()] == [f"unknown ({NUMBER})"]
        assert whit.collection("later").storage == f"unknown ({NUMBER})"


def test_commands_show_a_storage_of_the_future(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHIT_SERVER", address)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "a.txt").write_text("a passage")

    assert run(["info"]) == 0
    assert f"unknown ({NUMBER})" in capsys.readouterr().out
    assert run(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["collections"][0]["storage"] == f"unknown ({NUMBER})"
    assert run(["index", "--collection", "later", "--storage", "int8", str(tmp_path / "a.txt")]) == 1
    assert f"collection later stores unknown ({NUMBER}), not int8" in capsys.readouterr().err
