"""Which encoder a package gets, and what is said where it cannot have the one that was asked for. Runs on every machine."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from tests.support import packages, tables
from tests.support.native import RUNNABLE, needs_kernels, random_texts, static_package
from whit.contract.manifest import CPU, GRAPH_FILE, PROVIDERS, PackageError
from whit.runtime import opening
from whit.runtime.encoder import Encoder
from whit.runtime.native import OutdatedError, UnsupportedError
from whit.runtime.native import encoder as native
from whit.runtime.native.library import KERNELS, Kernels, Library, kernels_for, load_library
from whit.runtime.opening import PROVIDER_VARIABLE, open_encoder
from whit.runtime.package import Package, open_package

NATIVE = f"native-{RUNNABLE[0].name}" if RUNNABLE else ""


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROVIDER_VARIABLE, raising=False)


@pytest.fixture
def package() -> Package:
    return open_package(static_package())


@needs_kernels
@pytest.mark.parametrize(
    ("provider", "wanted"), [(None, NATIVE), ("auto", NATIVE), ("native", NATIVE), ("onnxruntime", CPU)]
)
def test_a_package_that_the_kernels_run(package: Package, provider: str | None, wanted: str) -> None:
    assert open_encoder(package, provider).provider == wanted


@needs_kernels
@pytest.mark.parametrize(("variable", "wanted"), [("", NATIVE), ("auto", NATIVE), ("onnxruntime", CPU)])
def test_the_variable_chooses(package: Package, monkeypatch: pytest.MonkeyPatch, variable: str, wanted: str) -> None:
    monkeypatch.setenv(PROVIDER_VARIABLE, variable)

    assert open_encoder(package).provider == wanted
    assert open_encoder(package, "native").provider == NATIVE  # what is said beats the variable


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_a_provider_that_does_not_exist(package: Package, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv(PROVIDER_VARIABLE, "cuda" if how == "variable" else "auto")

    with pytest.raises(PackageError, match=rf"no provider 'cuda'.*{PROVIDER_VARIABLE}.*{', '.join(PROVIDERS)}"):
        open_encoder(package, "cuda" if how == "argument" else None)


def falls_back(package: Package, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """The package runs in onnxruntime, the log says why, and asking for the kernels is refused with the same reason."""
    with caplog.at_level(logging.INFO, "whit.runtime.opening"):
        encoder = open_encoder(package)

    assert isinstance(encoder, Encoder)
    assert encoder.run(random_texts([3])).shape == (1, package.manifest.dimension_count)
    assert [record.getMessage() for record in caplog.records] == [
        f"{package.manifest.name} runs in onnxruntime, not in whit's own kernels: {reason}"
    ]
    with pytest.raises(PackageError) as refusal:
        open_encoder(package, "native")
    assert str(refusal.value) == (
        f"{package.directory} cannot run in whit's own kernels: {reason}; use provider auto or onnxruntime"
    )


def test_a_cpu_without_the_instructions(
    package: Package, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "instruction_sets", lambda: frozenset({"avx512"}))

    falls_back(package, caplog, "this CPU has neither AVX2 nor Arm's dot product")


@pytest.mark.parametrize(
    ("instructions", "wanted"),
    [
        ({"avx2"}, "avx2"),
        ({"avx2", "avx512"}, "avx2"),
        ({"avx2", "avx-vnni"}, "avx-vnni"),
        ({"avx2", "avx-vnni", "avx512", "avx512-vnni"}, "avx512-vnni"),
        ({"arm-dotprod"}, "arm-dotprod"),
    ],
)
def test_a_cpu_gets_the_fastest_that_it_can_run(instructions: set[str], wanted: str) -> None:
    assert kernels_for(instructions).name == wanted


def test_kernels_that_are_not_compiled(
    package: Package, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    missing = Kernels("missing", KERNELS[0].needs)
    monkeypatch.setattr(native, "kernels_for", lambda _instructions: missing)
    with pytest.raises(UnsupportedError) as lack:
        load_library(missing.path)
    assert "not compiled for this system" in str(lack.value)

    falls_back(package, caplog, str(lack.value))


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "kernels.so").write_bytes(b"\x7fELF" + bytes(100))

    with pytest.raises(UnsupportedError, match="not compiled for this system"):
        load_library(tmp_path / "kernels.so")


@pytest.mark.skipif(os.name != "posix", reason="needs a library of the system's")
def test_a_library_of_another_version() -> None:
    """One that lacks the function that says how large the structures are is as good as one that says otherwise."""
    import _ctypes

    with pytest.raises(UnsupportedError, match="is compiled from another version of whit; install whit again"):
        load_library(Path(_ctypes.__file__))


def test_outdated_kernels_are_warned_of_once(
    package: Package, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def outdated(_: Path) -> Library:
        raise OutdatedError("kernels.so is compiled from another version")

    monkeypatch.setattr(native, "kernels_for", lambda _: KERNELS[0])
    monkeypatch.setattr(native, "load_library", outdated)
    opening._warn_once.cache_clear()

    for _ in range(2):
        assert isinstance(open_encoder(package), Encoder)

    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == (
        "int8 packages run in onnxruntime, not in whit's own kernels: kernels.so is compiled from another version"
    )


@needs_kernels
def test_a_graph_of_another_form(caplog: pytest.LogCaptureFixture) -> None:
    package = open_package(static_package(hidden_size=48))

    falls_back(package, caplog, "a width of 48, which is no multiple of 32")


def test_float32_packages_stay_with_onnxruntime_and_that_needs_no_word(caplog: pytest.LogCaptureFixture) -> None:
    package = open_package(packages.package())

    with caplog.at_level(logging.INFO, "whit.runtime.opening"):
        assert isinstance(open_encoder(package), Encoder)

    assert not caplog.records
    with pytest.raises(PackageError, match="own kernels: its dtype is float32; use provider auto or onnxruntime"):
        open_encoder(package, "native")


@pytest.mark.parametrize("provider", [None, *PROVIDERS])
def test_static_packages_have_no_graph_to_choose_for(provider: str | None, tmp_path: Path) -> None:
    assert open_encoder(open_package(tables.write(tmp_path / "static")), provider).provider == "table"


@needs_kernels
@pytest.mark.parametrize("provider", ["auto", "native"])
def test_a_graph_that_cannot_be_read(provider: str, tmp_path: Path) -> None:
    """Its checksum is right: a faulty exporter, not a faulty disk."""
    source = static_package()
    folder = tmp_path / "package"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / GRAPH_FILE).write_bytes(b"not a graph")
    packages.reseal(folder)

    with pytest.raises(
        PackageError, match=rf"{GRAPH_FILE} cannot be read .*not an ONNX file.*export the package again"
    ):
        open_encoder(open_package(folder), provider)


@needs_kernels
def test_both_give_nearly_the_same_vectors(package: Package) -> None:
    texts = random_texts(range(1, 65))

    found, other = (open_encoder(package, provider).encode(texts) for provider in ("native", "onnxruntime"))

    assert (found * other).sum(axis=1).min() > 0.999
    assert not np.array_equal(found, other)
