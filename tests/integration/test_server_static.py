"""The server serves a static package as it serves any other: vectors, invariance, limits, collections."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import packages, tables
from tests.support.server import server_thread
from whit.client import Client
from whit.contract.manifest import Ngrams
from whit.runtime import open_encoder, open_package, open_tokenizer

TEXTS = ["the house", "many of the long names", "a", "people could see the water! 42"] * 40
TEXTS[40] = "the people " * 30  # another length in the same batch


@pytest.mark.parametrize("fields", [{}, {"ngrams": Ngrams(3, 4), "max_token_count": 512}], ids=["tokens", "n-grams"])
def test_a_static_package_is_served(fields: dict[str, object], tmp_path: Path) -> None:
    directory = tables.write(tmp_path / "static", **fields)
    package = open_package(directory)
    wanted = open_encoder(package).run(open_tokenizer(package).encode(TEXTS))

    with server_thread(tmp_path / "data", models=[directory, packages.package()]) as address, Client(address) as client:
        found = client.embed(TEXTS, model="tiny-static")
        alone = [client.embed([text], model="tiny-static").vectors[0] for text in TEXTS[:4]]
        models = {model.name: model for model in client.models()}
        client.create_collection("notes", model="tiny-static")
        client.upsert("notes", ids=["0", "1", "2", "3"], texts=TEXTS[:4])
        hits = client.search("notes", "the house", limit=1)

    assert np.array_equal(found.vectors, wanted)
    assert np.array_equal(alone, wanted[:4])
    assert models["tiny-static"].verified
    assert (models["tiny-static"].dtype, models["tiny-static"].fingerprint) == ("int8", package.manifest.fingerprint)
    assert hits[0].id == "0"


def test_a_server_of_static_packages_never_loads_onnxruntime(tmp_path: Path) -> None:
    """In a process of its own, since this one has it."""
    code = f"""
import asyncio, sys
from whit.client import AsyncClient
from whit.server.app import running_server
from whit.server.config import build_config

async def main():
    flags = {{"models": [{str(tables.write(tmp_path / "static"))!r}], "data": {str(tmp_path / "data")!r}}}
    async with running_server(build_config(flags | {{"listen": "127.0.0.1:0"}}, {{}})) as server:
        async with AsyncClient(server.address) as client:
            assert (await client.info()).providers == ()
            assert len(await client.embed(["the house"], model="tiny-static")) == 1
    assert "onnxruntime" not in sys.modules

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
