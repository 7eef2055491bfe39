"""Tiny packages for tests: compiled once a session, copied by the test that damages one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support import tiny
from whit.contract.manifest import MANIFEST_FILE, Manifest, read_manifest, sha256_of
from whit.export.compile import ExportOptions, compile_checkpoint

# Kept for the process, removed with it.
_ROOT = TemporaryDirectory(prefix="whit-tiny-")


@cache
def package(
    family: str = "bert", dtype: str = "float32", *, max_token_count: int | None = None, **checkpoint: Any
) -> Path:
    """Directory of a compiled tiny package; read only. ``checkpoint`` goes to ``tiny.write_checkpoint``."""
    folder = Path(_ROOT.name, f"{len(list(Path(_ROOT.name).iterdir()))}")
    source = tiny.write_checkpoint(folder / f"tiny-{family}", family, **checkpoint)
    compile_checkpoint(source, folder / "package", ExportOptions(dtype=dtype, max_token_count=max_token_count))
    return folder / "package"


def copy(folder: Path, family: str = "bert", dtype: str = "float32") -> Path:
    """A package of one's own, to be damaged."""
    shutil.copytree(package(family, dtype), folder)
    return folder


def edit_manifest(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes ``manifest.json`` as it stands, leaving the fingerprint as it was."""
    path = directory / MANIFEST_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def reseal(directory: Path, **changes: Any) -> Manifest:
    """Writes the manifest anew, over the files as they are now: what a faulty exporter, not a faulty disk, would leave."""
    old = read_manifest(directory)
    files = {name: sha256_of(directory / name) for name in old.files}
    fields = {name: getattr(old, name) for name in Manifest.__dataclass_fields__}
    new = Manifest(**{**fields, "files": files, **changes})
    (directory / MANIFEST_FILE).write_text(new.to_json(), encoding="utf-8")
    return new
