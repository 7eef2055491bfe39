"""Compiles the kernels (``whit/runtime/native/encoder.c``) when whit is installed or built: hatchling's build hook.

Zig's C compiler comes from the package registry, so that an install needs no compiler on the machine and every machine gets
the same instructions. All kernels of the machine's architecture are compiled; its processor decides which of them run. Where
there are none, whit installs without them and runs in onnxruntime.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import environ
from pathlib import Path
from typing import Any
from zlib import crc32

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path(__file__).parent / "whit" / "runtime" / "native"
# For each architecture (``platform.machine``) what is compiled, by the names in ``whit/runtime/native/library.py``.
# Of x86_64_v2 processors some read 32 bytes that are not aligned slowly; none of those that have AVX2.
KERNELS = {
    "x86_64": {
        "avx512-vnni": "x86_64_v4+avx512vnni",
        "avx-vnni": "x86_64_v2+avx2+fma+avxvnni-slow_unaligned_mem_32",
        "avx2": "x86_64_v2+avx2+fma-slow_unaligned_mem_32",
    },
    "aarch64": {"arm-dotprod": "generic+v8_2a+dotprod"},
}
GLIBC = "2.17"
FLAGS = (
    *("-O3", "-shared", "-fPIC", "-pthread", "-s", "-Wall", "-Wextra", "-Werror", "-fno-sanitize=all"),
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
        architecture = platform.machine()
        with ThreadPoolExecutor() as executor:
            list(executor.map(compile_kernels, KERNELS[architecture]))
        build_data["artifacts"] += [f"server/whit/runtime/native/{_file(name)}" for name in KERNELS[architecture]]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_{GLIBC.replace('.', '_')}_{architecture}"


def _has_kernels() -> bool:
    return sys.platform == "linux" and platform.machine() in KERNELS


def _file(name: str) -> str:
    return f"kernels-{name}.so"


def compile_kernels(name: str, folder: Path = FOLDER, flags: Sequence[str] = FLAGS) -> Path:
    """Compiles into ``folder``; the file appears whole or not at all, and a server that has the old one open keeps it."""
    # What library.py knows them by: after a change of the sources, the old kernels are not called with the new weights.
    sources = crc32(b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]"))))
    architecture, cpu = next((arch, cpus[name]) for arch, cpus in KERNELS.items() if name in cpus)
    library = folder / _file(name)
    made = library.with_suffix(".new")
    with tempfile.TemporaryDirectory() as cache:
        command = [
            *(sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-gnu.{GLIBC}", f"-mcpu={cpu}"),
            *(*flags, f"-DSOURCES={sources}", "-o", str(made), str(FOLDER / "encoder.c")),
        ]
        caches = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        subprocess.run(command, check=True, env=environ | caches)  # noqa: S603  (our own command)
    made.replace(library)
    return library
