"""How many layers compute a text is the request's to say: over a real socket, beside what the package itself gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from tests.support.server import server_thread, tiny_package
from whit.cli.app import run
from whit.client import Client, InvalidRequest
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.prune.layers import LayerOptions, drop_layers
from whit.runtime import Tokenizer, open_package
from whit.runtime.encoder import Encoder

TEXTS = ["a text", "the water was cold and the night long", "one", "people made great things " * 6]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package ``deep``, which runs with 2, 3 or 4 layers, and ``short``: a package of the first two alone."""
    folder = tmp_path_factory.mktemp("depths")
    checkpoint = tiny.write_checkpoint(folder / "checkpoint", num_hidden_layers=4)
    drop_layers(checkpoint, folder / "first", LayerOptions(keep=(0, 1)))
    compile_checkpoint(checkpoint, folder / "deep", ExportOptions(dtype="float32", name="deep", depths=(2, 3)))
    compile_checkpoint(folder / "first", folder / "short", ExportOptions(dtype="float32", name="short"))
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with server_thread(folder / "data", models=[folder / "deep", tiny_package()]) as address:
        yield address


@pytest.fixture(scope="module")
def whit(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def vectors(package: Path) -> np.ndarray:
    opened = open_package(package)
    return Encoder(opened).encode(Tokenizer(opened).encode(TEXTS))


def test_two_layers_give_the_bytes_of_a_package_that_has_no_more(whit: Client, folder: Path) -> None:
    found = whit.embed(TEXTS, model="deep", layer_count=2).vectors

    assert np.array_equal(found, vectors(folder / "short"))
    streamed = [part.vectors for part in whit.embed_stream(TEXTS, model="deep", layer_count=2, batch_size=2)]
    assert np.array_equal(np.concatenate(streamed), found)
    alone = [whit.embed([text], model="deep", layer_count=2).vectors for text in TEXTS]
    assert np.array_equal(np.concatenate(alone), found)


def test_all_layers_are_what_is_given_unless_asked_for_fewer(whit: Client, folder: Path) -> None:
    full = whit.embed(TEXTS, model="deep").vectors

    assert np.array_equal(full, vectors(folder / "deep"))
    assert np.array_equal(whit.embed(TEXTS, model="deep", layer_count=4).vectors, full)
    assert not np.array_equal(whit.embed(TEXTS, model="deep", layer_count=3).vectors, full)


def test_depth_and_dimensions_are_chosen_together(whit: Client) -> None:
    deep = whit.embed(TEXTS, model="deep", layer_count=3).vectors
    both = whit.embed(TEXTS, model="deep", layer_count=3, dimension_count=8, encoding="int8")

    cut = deep[:, :8] / np.linalg.norm(deep[:, :8], axis=1, keepdims=True)
    assert np.abs(both.by_encoding["int8"].to_float32() - cut).max() < 0.01


def test_models_say_what_they_offer(whit: Client) -> None:
    assert {model.name: model.layer_counts for model in whit.models()} == {"deep": (2, 3, 4), "tiny": ()}


@pytest.mark.parametrize(
    ("model", "said"), [("deep", "must be one of 2, 3, 4, the layer counts"), ("tiny", "export it with --depths")]
)
def test_a_depth_that_is_not_offered(whit: Client, model: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=r"options\.layer_count") as refused:
        whit.embed(TEXTS, model=model, layer_count=1)
    assert said in str(refused.value)
    with pytest.raises(InvalidRequest, match=r"config\.layer_count"):
        list(whit.embed_stream(TEXTS, model=model, layer_count=1))
    with pytest.raises(ValueError, match="layer_count must be 1 or more"):
        whit.embed(TEXTS, model=model, layer_count=0)


def test_collections_take_all_layers(whit: Client) -> None:
    whit.create_collection("c", model="deep")
    whit.upsert("c", ids=["0"], texts=[TEXTS[1]])

    full, shallow = (whit.embed([TEXTS[1]], model="deep", layer_count=n).vectors[0] for n in (None, 2))
    (by_text,) = whit.search("c", TEXTS[1])
    (by_shallow,) = whit.search("c", shallow)

    assert by_text.score == pytest.approx(1, abs=1e-3)
    assert by_shallow.score == pytest.approx(float(full @ shallow), abs=1e-2)


def test_the_command_line_chooses_a_depth(address: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    arguments = ["embed", "--model", "deep", "--file", str(tmp_path / "texts.txt"), "--server", address]

    assert run([*arguments, "--layers", "2", "--out", str(tmp_path / "two.npy")]) == 0
    assert run([*arguments, "--out", str(tmp_path / "all.npy")]) == 0

    assert np.array_equal(np.load(tmp_path / "two.npy"), vectors(folder / "short"))
    assert np.array_equal(np.load(tmp_path / "all.npy"), vectors(folder / "deep"))


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("deep", "--layers: must be one of 2, 3, 4, the layer counts of model 'deep', or left out for all; got 1"),
        (
            "tiny",
            "--layers: must be left out, for the package of model 'tiny' is run with all its layers only; export it",
        ),
    ],
)
def test_the_command_line_names_the_depths_there_are(
    address: str, capsys: pytest.CaptureFixture[str], model: str, line: str
) -> None:
    assert run(["embed", "a text", "--model", model, "--layers", "1", "--server", address]) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"whit embed: {line}")
    assert captured.err.count("\n") == 1
