"""Compiles the kernels (``whit/runtime/native/encoder.c``) when whit is installed or built: hatchling's build hook.

Zig's C compiler comes from the package registry, so that an install needs no compiler on the machine and every machine gets
the same instructions. Where there are no kernels for a platform, whit installs without them and runs in onnxruntime.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from os import environ
from pathlib import Path
from typing import Any
from zlib import crc32

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path(__file__).parent / "whit" / "runtime" / "native"
LIBRARY = "kernels-avx512-vnni.so"
TARGET = "x86_64-linux-gnu.2.17"
FLAGS = (
    *("-O3", "-shared", "-fPIC", "-s", "-Wall", "-Wextra", "-Werror", "-fno-sanitize=all"),
    # No operation is fused with another behind our back: vectors must not depend on the compiler.
    "-ffp-contract=off",
)


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the compiled kernels beside their source, and into wheels."""

    def dependencies(self) -> list[str]:
        """What building needs on this platform, besides hatchling."""
        return ["ziglang>=0.13,<0.18"] if self.target_name == "wheel" and _has_kernels() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles before files are collected."""
        if self.target_name != "wheel" or not _has_kernels():
            return
        compile_kernels(FOLDER / LIBRARY)
        build_data["artifacts"].append(f"server/whit/runtime/native/{LIBRARY}")
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-manylinux_2_17_x86_64"


def _has_kernels() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64"


def compile_kernels(library: Path) -> None:
    """Compiles into ``library``; it appears whole or not at all, and a server that has the old one open keeps it."""
    # What library.py knows them by: after a change of the sources, the old kernels are not called with the new weights.
    sources = crc32(b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]"))))
    with tempfile.TemporaryDirectory() as cache:
        made = library.with_suffix(".new")
        command = [
            *(sys.executable, "-m", "ziglang", "cc", "-target", TARGET, "-march=x86_64_v4+avx512vnni", *FLAGS),
            *(f"-DSOURCES={sources}", "-o", str(made), str(FOLDER / "encoder.c")),
        ]
        caches = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        subprocess.run(command, check=True, env=environ | caches)  # noqa: S603  (our own command)
        made.replace(library)
