"""The server serves a static package as it serves any other: vectors, invariance, limits, collections."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support import packages, tables
from tests.support.server import server_thread
from whit.client import Client
from whit.runtime import Tokenizer, open_encoder, open_package

TEXTS = ["the house", "many of the long names", "a", "people could see the water! 42"] * 40
TEXTS[40] = "the people " * 30  # another length in the same batch


def test_a_static_package_is_served(tmp_path: Path) -> None:
    directory = tables.write(tmp_path / "static")
    package = open_package(directory)
    wanted = open_encoder(package).run(Tokenizer(package).encode(TEXTS))

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
