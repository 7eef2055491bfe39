"""The build hook: asks for a compiler only where there are kernels to compile, and what it compiles can be loaded."""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from whit.runtime.native import UnsupportedError
from whit.runtime.native.library import load_library

ROOT = Path(__file__).parents[2]
IS_LINUX_X86 = sys.platform == "linux" and platform.machine() == "x86_64"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """``server/build_kernels.py``, which hatchling loads by its path, too."""
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("build_kernels", ROOT / "server" / "build_kernels.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hook(build: ModuleType, target: str = "wheel") -> Any:
    return build.KernelHook(str(ROOT), {}, None, None, str(ROOT / "dist"), target)


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [
        ("linux", "x86_64", True),
        ("linux", "aarch64", False),
        ("darwin", "x86_64", False),
        ("darwin", "arm64", False),
        ("win32", "AMD64", False),
    ],
)
def test_a_compiler_is_asked_for_where_there_are_kernels(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, wanted: bool
) -> None:
    monkeypatch.setattr(build.sys, "platform", system)
    monkeypatch.setattr(build.platform, "machine", lambda: machine)
    data: dict[str, Any] = {"artifacts": []}

    assert [each.startswith("ziglang") for each in hook(build).dependencies()] == [True] * wanted
    assert hook(build, "sdist").dependencies() == []
    if not wanted:
        hook(build).initialize("standard", data)
        assert data == {"artifacts": []}  # a wheel for every platform, without kernels


def test_a_source_distribution_compiles_nothing(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "compile_kernels", lambda library: pytest.fail("compiled"))

    hook(build, "sdist").initialize("standard", {"artifacts": []})


def test_a_wheel_says_for_which_platform_it_is(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.sys, "platform", "linux")
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    compiled: list[Path] = []
    monkeypatch.setattr(build, "compile_kernels", compiled.append)
    data: dict[str, Any] = {"artifacts": []}

    hook(build).initialize("standard", data)

    assert data["tag"] == "py3-none-manylinux_2_17_x86_64"
    assert data["pure_python"] is False
    assert [ROOT / path for path in data["artifacts"]] == compiled


@pytest.mark.skipif(not IS_LINUX_X86, reason="needs a platform that has kernels")
def test_the_kernels_compile_and_belong_to_their_sources(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ziglang")
    (tmp_path / "kernels.so").write_bytes(b"the old ones")

    build.compile_kernels(tmp_path / "kernels.so")

    assert load_library(tmp_path / "kernels.so").whit_encode
    assert [path.name for path in tmp_path.iterdir()] == ["kernels.so"]

    monkeypatch.setattr(
        "whit.runtime.native.library.checksum_of_sources", lambda: 1
    )  # after an update without an install
    with pytest.raises(
        UnsupportedError, match=r"kernels\.so is compiled from another version of whit; install whit again"
    ):
        load_library(tmp_path / "kernels.so")


@pytest.mark.skipif(not IS_LINUX_X86, reason="needs a platform that has kernels")
def test_a_compiler_that_fails_leaves_the_old_kernels(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ziglang")
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "--no-such-flag"))
    (tmp_path / "kernels.so").write_bytes(b"the old ones")

    with pytest.raises(build.subprocess.CalledProcessError):
        build.compile_kernels(tmp_path / "kernels.so")

    assert (tmp_path / "kernels.so").read_bytes() == b"the old ones"
