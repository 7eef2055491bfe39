"""Opening, loading and verifying a package: a good one works, and a bad one is refused by name before it answers anything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.support import packages
from whit.contract.manifest import FORMAT_VERSION, GOLDEN_FILE, GRAPH_FILE, REQUIRED_FILES, TOKENIZER_FILE, PackageError
from whit.runtime import machine
from whit.runtime.encoder import Encoder, open_session
from whit.runtime.package import open_package
from whit.runtime.tokenizer import Tokenizer
from whit.runtime.verify import Verification, read_golden, verify

WHAT_TO_DO = re.compile(r"whit export|export (the package|it)|copy the|upgrade whit|choose one of")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return packages.copy(tmp_path / "package")


def load(directory: Path) -> Verification:
    """What the server and ``whit verify`` do with a package."""
    package = open_package(directory)
    return verify(package, Tokenizer(package), Encoder(package))


def refusal(directory: Path) -> str:
    with pytest.raises(PackageError) as refused:
        load(directory)
    message = str(refused.value)
    assert str(directory) in message
    assert WHAT_TO_DO.search(message), message
    return message


# A good package


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_good_package_opens_and_verifies(dtype: str) -> None:
    package = open_package(packages.package("bert", dtype))

    found = load(package.directory)

    assert found.verified
    assert found.text_count >= 5
    assert (found.max_abs_difference, found.min_cosine) == (0, pytest.approx(1, abs=1e-6))
    assert package.size_bytes == sum(path.stat().st_size for path in package.directory.iterdir())


def test_a_package_may_be_given_as_text() -> None:
    assert open_package(str(packages.package())).manifest.name == "tiny-bert"


def test_a_package_works_from_another_place(tmp_path: Path) -> None:
    assert load(packages.copy(tmp_path / "a folder with spaces, ümläute")).verified


# Damage


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flip, lambda data: b""], ids=["cut", "flip", "empty"])
@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_damaged_file(directory: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    path = directory / name
    path.write_bytes(damage(path.read_bytes()))

    assert f"{path} was altered or cut short" in refusal(directory)


@pytest.mark.parametrize("name", [*REQUIRED_FILES, "manifest.json"])
def test_a_missing_file(directory: Path, name: str) -> None:
    (directory / name).unlink()

    assert f"{directory / name} is missing" in refusal(directory)


def test_a_newer_format(directory: Path) -> None:
    packages.edit_manifest(directory, lambda content: content.update(format_version=FORMAT_VERSION + 1))

    assert f"has format version {FORMAT_VERSION + 1}, this whit reads up to {FORMAT_VERSION}; upgrade whit" in refusal(
        directory
    )


# Faults that checksums cannot see: the files are the ones that the manifest names, and still wrong


@pytest.mark.parametrize("graph", [b"", b"not a graph", b"\x08\x07"], ids=["empty", "text", "no graph in it"])
def test_a_graph_that_is_none(directory: Path, graph: bytes) -> None:
    (directory / GRAPH_FILE).write_bytes(graph)
    packages.reseal(directory)

    assert f"onnxruntime cannot load {directory / GRAPH_FILE}" in refusal(directory)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"version": "1.0", "model": {"type": "WordPiece"}}'])
def test_a_tokenizer_that_is_none(directory: Path, content: str) -> None:
    (directory / TOKENIZER_FILE).write_text(content)
    packages.reseal(directory)

    assert f"{directory / TOKENIZER_FILE} cannot be read" in refusal(directory)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"texts": []}',
        '{"texts": 3}',
        '{"texts": [{"text": "a"}]}',
        '{"texts": [{"text": "a", "vector": [1, 2]}]}',
        '{"texts": [{"text": "a", "vector": ["x"]}]}',
        '{"texts": [{"text": "a", "vector": [1, 2]}, {"text": "b", "vector": [1]}]}',
    ],
)
def test_golden_vectors_of_another_form(directory: Path, content: str) -> None:
    (directory / GOLDEN_FILE).write_text(content)
    packages.reseal(directory)

    assert str(directory / GOLDEN_FILE) in refusal(directory)


def spoil_golden(directory: Path, change: Callable[[list[float]], object]) -> None:
    path = directory / GOLDEN_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content["texts"][-1]["vector"])
    path.write_text(json.dumps(content), encoding="utf-8")
    packages.reseal(directory)


@pytest.mark.parametrize(("dtype", "off", "verified"), [
    ("float32", 5e-6, True),
    ("float32", 5e-5, False),
    ("int8", 1e-2, True),
    ("int8", 5e-2, False),
])  # fmt: skip
def test_golden_vectors_that_differ(tmp_path: Path, dtype: str, off: float, verified: bool) -> None:
    directory = packages.copy(tmp_path / "package", dtype=dtype)

    def move(vector: list[float]) -> None:
        vector[3] += off

    spoil_golden(directory, move)

    found = load(directory)

    assert found.verified is verified
    assert found.max_abs_difference == pytest.approx(off, rel=0.1)


def test_a_golden_vector_that_is_not_a_number_fails(directory: Path) -> None:
    spoil_golden(directory, lambda vector: vector.__setitem__(0, float("nan")))

    assert not load(directory).verified


def test_another_models_graph_does_not_verify(directory: Path) -> None:
    other = packages.package("bert", "float32", seed=1)
    (directory / GRAPH_FILE).write_bytes((other / GRAPH_FILE).read_bytes())
    packages.reseal(directory)

    found = load(directory)

    assert not found.verified
    assert found.min_cosine < 0.99


def test_a_tokenizer_of_another_model(directory: Path) -> None:
    path = directory / TOKENIZER_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"]["a"] = 100_000
    path.write_text(json.dumps(content), encoding="utf-8")
    packages.reseal(directory)

    assert f"{directory / GRAPH_FILE} cannot embed the golden texts" in refusal(directory)


def test_a_graph_whose_vectors_depend_on_their_company(directory: Path) -> None:
    """Every vector within the tolerance, yet not the same alone as in a batch: no such package is ever served."""
    graph = onnx.load(str(directory / GRAPH_FILE))
    last = graph.graph.node[-1]
    assert list(last.output) == ["vectors"]
    last.output[0] = "before"
    graph.graph.initializer.append(numpy_helper.from_array(np.array(1e-6, np.float32), "little"))
    graph.graph.node.extend([
        helper.make_node("ReduceMax", ["before"], ["largest"], keepdims=0),  # over the whole batch
        helper.make_node("Mul", ["largest", "little"], ["moved"]),
        helper.make_node("Add", ["before", "moved"], ["vectors"]),
    ])  # fmt: skip
    (directory / GRAPH_FILE).write_bytes(graph.SerializeToString())
    packages.reseal(directory)

    found = load(directory)

    assert not found.verified
    assert found.max_abs_difference < found.tolerance


# The machine


def test_another_target(directory: Path) -> None:
    packages.reseal(directory, target="portable")

    assert "is compiled for target 'portable', this whit runs 'cpu'; export it for cpu" in refusal(directory)


def test_an_instruction_set_that_this_cpu_lacks(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whit.runtime.package.instruction_sets", lambda: frozenset({"avx2", "avx-vnni"}))
    packages.reseal(directory, instruction_set="avx512-vnni")

    message = refusal(directory)

    assert "needs a CPU with avx512-vnni, this one has avx-vnni, avx2" in message
    assert "export the package on this machine" in message


def test_an_instruction_set_where_none_is_known(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whit.runtime.package.instruction_sets", frozenset)
    packages.reseal(directory, instruction_set="arm-dotprod")

    assert "needs a CPU with arm-dotprod, this one has none known" in refusal(directory)


def test_an_instruction_set_that_this_cpu_has(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whit.runtime.package.instruction_sets", lambda: frozenset({"avx2"}))
    packages.reseal(directory, instruction_set="avx2")

    assert load(directory).verified


def test_a_package_that_assumes_nothing_opens_anywhere(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whit.runtime.package.instruction_sets", frozenset)

    assert open_package(directory).manifest.instruction_set == "any"


CPUINFO = {
    "x86": ("processor : 0\nmodel name\t: A CPU\nflags\t\t: fpu fma avx2 avx512bw avx512_vnni\n", {"avx2", "avx512", "avx512-vnni"}),
    "arm": ("processor : 0\nFeatures\t: fp asimd asimddp\n", {"arm-dotprod"}),
    "no such flag": ("flags : avx20 xavx2\nbugs : avx2\n", set()),
}  # fmt: skip


@pytest.mark.parametrize("kind", CPUINFO)
def test_instruction_sets_by_the_names_that_manifests_use(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, wanted = CPUINFO[kind]
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)

    assert machine.instruction_sets.__wrapped__() == wanted


def test_a_machine_without_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)

    assert machine.instruction_sets.__wrapped__() == frozenset()
    assert machine.cpu_name() != ""


def test_a_provider_that_is_not_there() -> None:
    with pytest.raises(PackageError, match=r"NpuExecutionProvider is not available here; choose one of .*CPUExecution"):
        open_session(packages.package() / GRAPH_FILE, "NpuExecutionProvider")


def test_golden_vectors_are_exact(directory: Path) -> None:
    package = open_package(directory)
    texts, golden = read_golden(package)

    ids = Tokenizer(package).encode(texts)
    found = Encoder(package).encode([Tokenizer(package).cut(i, package.manifest.max_token_count) for i in ids])

    assert np.array_equal(found, golden)
