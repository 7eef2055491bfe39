"""A manifest that says more than its graph has: refused at load, by either runtime, in one line that names the field."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.support import packages, tiny
from tests.support.native import RUNNABLE, static_package
from whit.contract.manifest import GRAPH_FILE, SHALLOWER_VERSION, PackageError
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.runtime import claims
from whit.runtime.claims import Sizes, sizes_in, sizes_of
from whit.runtime.encoder import Encoder
from whit.runtime.native.onnx_file import read_graph
from whit.runtime.opening import open_encoder
from whit.runtime.package import open_package

RUNTIMES = ["onnxruntime", *(["native"] if RUNNABLE else [])]
WORDS = len(tiny.vocabulary())
TOKENS = tiny.MAX_TOKEN_COUNT


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An int8 package with one depth, and one with three."""
    root = tmp_path_factory.mktemp("claims")
    found = {"plain": static_package()}
    source = tiny.write_checkpoint(root / "checkpoint", "bert", num_hidden_layers=4)
    options = ExportOptions(name="tiny", max_layer_error=0.9, max_loss=100.0, depths=(1, 3))
    compile_checkpoint(source, root / "deep", options)
    return found | {"deep": root / "deep"}


def copied(source: Path, folder: Path, **changes: object) -> Path:
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    packages.reseal(folder, **changes)
    return folder


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("kind", "field", "value", "has"),
    [
        ("plain", "vocabulary_size", WORDS + 1, f"has {WORDS} token ids"),
        ("plain", "max_token_count", TOKENS + 1, f"has positions for {TOKENS} tokens"),
        ("plain", "position_offset", 3, f"has positions for {TOKENS - 3} tokens"),
        ("plain", "layer_counts", (1, 2), "can be run with all layers only"),
        ("deep", "layer_counts", (1, 2, 4), "can be run with [1, 3, 4] layers"),
        ("deep", "layer_counts", (1, 3, 5), "can be run with [1, 3, 4] layers"),
        ("deep", "layer_counts", (), "can be run with [1, 3, 4] layers"),
    ],
)
def test_what_the_graph_lacks_is_refused(
    sealed: dict[str, Path], tmp_path: Path, runtime: str, kind: str, field: str, value: object, has: str
) -> None:
    package = copied(sealed[kind], tmp_path / "package", format_version=SHALLOWER_VERSION, **{field: value})

    with pytest.raises(PackageError) as refusal:
        open_encoder(open_package(package), runtime)

    named, said = (field, value) if field != "position_offset" else ("max_token_count", TOKENS)
    said = list(said) if isinstance(said, tuple) else said
    assert str(refusal.value) == (
        f"{package / 'manifest.json'}: {named} is {said}, but the graph in model.onnx {has}; export the package again"
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_manifest_may_say_less(sealed: dict[str, Path], tmp_path: Path, runtime: str) -> None:
    package = copied(sealed["plain"], tmp_path / "package", vocabulary_size=WORDS - 1, max_token_count=TOKENS - 1)

    assert open_encoder(open_package(package), runtime).manifest.max_token_count == TOKENS - 1


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_sizes_of_all_families(family: str, dtype: str) -> None:
    offset = 2 if tiny.counts_from_padding(family) else 0

    assert sizes_in(packages.package(family, dtype) / GRAPH_FILE) == Sizes(WORDS, TOKENS + offset, ())


def test_sizes_of_a_graph_with_depths(sealed: dict[str, Path]) -> None:
    assert sizes_of(read_graph(sealed["deep"] / GRAPH_FILE)).depths == (1, 3, 4)


@pytest.mark.parametrize(("field", "value"), [("vocabulary_size", WORDS + 1), ("max_token_count", TOKENS + 1)])
def test_a_graph_that_cannot_be_read_is_tried(tmp_path: Path, field: str, value: int) -> None:
    """With a table that is computed, so that its size is not written down."""
    folder = packages.copy(tmp_path / "package")
    graph = onnx.load(folder / GRAPH_FILE)
    for ids in ("input_ids", "position_ids"):
        lookup = next(node for node in graph.graph.node if node.op_type == "Gather" and node.input[1] == ids)
        copy = onnx.helper.make_node("Identity", [lookup.input[0]], [f"{ids}_table"])
        lookup.input[0] = copy.output[0]
        graph.graph.node.insert(0, copy)
    onnx.save(graph, folder / GRAPH_FILE)
    packages.reseal(folder)
    assert claims.sizes_in(folder / GRAPH_FILE) is None
    assert Encoder(open_package(folder)).provider
    packages.reseal(folder, **{field: value})

    with pytest.raises(
        PackageError, match=rf"model\.onnx cannot embed \d+ tokens .*{field}.* export the package again"
    ):
        Encoder(open_package(folder))
