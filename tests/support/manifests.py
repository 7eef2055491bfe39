"""Directories that are packages as far as ``manifest.json`` can tell, and what is done to them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from whit.contract.manifest import (
    KINDS,
    REQUIRED_FILES,
    STATIC,
    LinearScheme,
    Manifest,
    PackageError,
    check_files,
    read_manifest,
    sha256_of,
)

REQUIRED_FIELDS = ("name", "architecture", "dimension_count", "max_token_count", "vocabulary_size", "pooling", "dtype")


WHAT_TO_DO = re.compile(
    r"whit export|export (the package|it) again|copy the|upgrade whit|check its permissions|do not use"
)


def write(directory: Path, **changes: Any) -> Manifest:
    """A directory that is a package as far as this module can tell."""
    directory.mkdir(exist_ok=True)
    for name in (*REQUIRED_FILES, "LICENSE"):
        (directory / name).write_bytes(f"bytes of {name}".encode() * 100)
    fields: dict[str, Any] = {
        "name": "tiny",
        "architecture": "bert",
        "dimension_count": 32,
        "max_token_count": 64,
        "vocabulary_size": 400,
        "pooling": "mean",
        "dtype": "int8",
        "files": {name: sha256_of(directory / name) for name in (*REQUIRED_FILES, "LICENSE")},
        "matryoshka_dimension_counts": (8, 16),
        "prompts": {"query": "q: "},
        "linears": (LinearScheme("layers.0.up", "static", 0.01), LinearScheme("layers.0.down", "row", 0.02)),
        "provenance": {"license": "apache-2.0"},
    }
    manifest = Manifest(**{**fields, **changes})
    (directory / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def change(directory: Path, **changes: Any) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def remove(directory: Path, field: str) -> None:
    path = directory / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[field]
    path.write_text(json.dumps(content), encoding="utf-8")


def refusal(directory: Path) -> str:
    """The message that ``directory`` is refused with; always names the file and says what to do."""
    with pytest.raises(PackageError) as refused:
        check_files(directory, read_manifest(directory))
    message = str(refused.value)
    assert str(directory) in message
    assert WHAT_TO_DO.search(message), message
    return message


def write_static(directory: Path, **changes: Any) -> Manifest:
    """A static package as far as this module can tell."""
    directory.mkdir()
    for name in KINDS[STATIC].required_files:
        (directory / name).write_bytes(f"bytes of {name}".encode() * 100)
    files = {name: sha256_of(directory / name) for name in KINDS[STATIC].required_files}
    manifest = Manifest("tiny", "static", 8, 64, 40, "mean", "int8", files, kind=STATIC, format_version=2)
    manifest = dataclasses.replace(manifest, **changes)
    (directory / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return manifest
