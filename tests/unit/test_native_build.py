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
from whit.runtime.native.library import KERNELS, load_library

ROOT = Path(__file__).parents[2]
# Whether they compile and link is quicker to know of kernels that nobody will run. Zig's own runtime, which it compiles for
# each of them, is the quickest to make with -O1; the front end is told once more.
QUICK = ("-O1", "-Xclang", "-O0")
HAS_KERNELS = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")


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
        ("linux", "aarch64", True),
        ("linux", "riscv64", False),
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
    monkeypatch.setattr(build, "compile_kernels", lambda name: pytest.fail("compiled"))

    hook(build, "sdist").initialize("standard", {"artifacts": []})


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_wheel_says_for_which_platform_it_is(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    monkeypatch.setattr(build.sys, "platform", "linux")
    monkeypatch.setattr(build.platform, "machine", lambda: machine)
    compiled: list[str] = []
    monkeypatch.setattr(build, "compile_kernels", compiled.append)
    data: dict[str, Any] = {"artifacts": []}

    hook(build).initialize("standard", data)

    assert data["tag"] == f"py3-none-manylinux_2_17_{machine}"
    assert data["pure_python"] is False
    wanted = {kernels.name: kernels.path for kernels in KERNELS if ("arm" in kernels.name) == (machine == "aarch64")}
    assert sorted(compiled) == sorted(wanted)
    assert {ROOT / path for path in data["artifacts"]} == set(wanted.values())


@pytest.mark.skipif(not HAS_KERNELS, reason="needs a platform that has kernels")
def test_the_kernels_compile_and_belong_to_their_sources(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ziglang")
    name = next(iter(build.KERNELS[platform.machine()]))
    library = tmp_path / f"kernels-{name}.so"
    library.write_bytes(b"the old ones")

    assert build.compile_kernels(name, tmp_path, (*build.FLAGS, *QUICK)) == library

    assert load_library(library).functions.whit_encode
    assert list(tmp_path.iterdir()) == [library]

    monkeypatch.setattr(
        "whit.runtime.native.library.checksum_of_sources", lambda: 1
    )  # after an update without an install
    with pytest.raises(
        UnsupportedError, match=r"kernels-.*\.so is compiled from another version of whit; install whit again"
    ):
        load_library(library)


def test_kernels_for_other_processors_compile_as_well(build: ModuleType, tmp_path: Path) -> None:
    """Whatever machine the tests run on, a change that only the others would notice is noticed."""
    pytest.importorskip("ziglang")
    others = [cpus for machine, cpus in build.KERNELS.items() if machine != platform.machine()]
    for name in (name for cpus in others for name in cpus):
        assert build.compile_kernels(name, tmp_path, (*build.FLAGS, *QUICK)).is_file()


@pytest.mark.skipif(not HAS_KERNELS, reason="needs a platform that has kernels")
def test_a_compiler_that_fails_leaves_the_old_kernels(build: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    name = next(iter(build.KERNELS[platform.machine()]))
    library = tmp_path / f"kernels-{name}.so"
    library.write_bytes(b"the old ones")

    with pytest.raises(build.subprocess.CalledProcessError):
        build.compile_kernels(name, tmp_path, (*build.FLAGS, "--no-such-flag"))

    assert library.read_bytes() == b"the old ones"
