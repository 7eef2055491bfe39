"""The package manifest: what a package is, as data, and the checks that need nothing but the files themselves.

A package is an immutable directory; docs/package-format.md describes it. This module reads and writes ``manifest.json``,
computes the fingerprint and proves that the files are the ones the manifest names. It runs no model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
GOLDEN_FILE = "golden.json"
REPORT_FILE = "report.json"
REQUIRED_FILES = (GRAPH_FILE, TOKENIZER_FILE, GOLDEN_FILE, REPORT_FILE)


class PackageError(Exception):
    """A package cannot be used. The message names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class LinearScheme:
    """How one linear layer was compiled: ``float32``, ``static`` (int8, calibrated activation scale), ``smoothed`` (static
    with a factor for each channel) or ``row`` (int8, one activation scale a token). ``error`` is what it costs on
    calibration text: the root mean square error of the layer's output, relative to its standard deviation.
    """

    name: str
    scheme: str
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``manifest.json`` holds. Every field except ``fingerprint``, ``report``-like ones and ``provenance`` changes a
    vector and is part of the fingerprint.
    """

    name: str
    architecture: str
    dimension_count: int
    max_token_count: int
    vocabulary_size: int
    pooling: str  # "mean", "cls" or "max"
    dtype: str  # "float32" or "int8"
    files: Mapping[str, str]  # file name -> "sha256:..." of its bytes
    normalized: bool = True  # the graph's output has length 1
    matryoshka_dimension_counts: Sequence[int] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    attention_bucket: int = 16  # the attention length of a text is its token count rounded up to a multiple of this
    position_offset: int = 0  # position id of the first token (2 in RoBERTa)
    target: str = "cpu"
    instruction_set: str = "any"  # what the machine must have for the numbers to hold; "any": no assumption
    linears: Sequence[LinearScheme] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """``sha256:`` and 64 hexadecimal digits over the graph, the tokenizer and everything else that changes a vector."""
        content = {
            "format_version": self.format_version,
            "files": {name: self.files[name] for name in (GRAPH_FILE, TOKENIZER_FILE)},
            "max_token_count": self.max_token_count,
            "attention_bucket": self.attention_bucket,
            "position_offset": self.position_offset,
            "normalized": self.normalized,
            "prompts": dict(self.prompts),
        }
        return "sha256:" + hashlib.sha256(_canonical(content)).hexdigest()

    def to_json(self) -> str:
        """Canonical text of ``manifest.json``: the same manifest always gives the same bytes."""
        content = dataclasses.asdict(self) | {"fingerprint": self.fingerprint}
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def sha256_of(path: Path) -> str:
    """``sha256:`` and the hexadecimal digest of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(directory: Path) -> Manifest:
    """Reads and checks ``manifest.json``: form, format version, fingerprint. Does not read the other files.

    Raises:
        PackageError: no package there, made by a newer whit, or altered.
    """
    path = directory / MANIFEST_FILE
    if not directory.is_dir():
        raise PackageError(f"{directory} is not a directory; a package is made with: whit export CHECKPOINT --out DIR")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PackageError(
            f"{path} is missing, so this is not a package; make one with: whit export CHECKPOINT --out DIR"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PackageError(f"{path} is not valid JSON ({error}); copy the package again or export it again") from None
    if not isinstance(content, dict):
        raise PackageError(f"{path} does not hold a JSON object; copy the package again or export it again")
    version = content.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise PackageError(
            f"{path}: format_version must be a positive integer, got {version!r}; export the package again"
        )
    if version > FORMAT_VERSION:
        raise PackageError(
            f"{path} has format version {version}, this whit reads up to {FORMAT_VERSION}; "
            "upgrade whit (pip install -U whit) or export the package with this version"
        )
    fingerprint = content.pop("fingerprint", None)
    manifest = _from_dict(content, path)
    if fingerprint != manifest.fingerprint:
        raise PackageError(
            f"{path}: the fingerprint does not match its content, so it was altered; export the package again"
        )
    return manifest


def check_files(directory: Path, manifest: Manifest) -> None:
    """Proves that every file the manifest names is there with the bytes it had.

    Raises:
        PackageError: a file is missing, or its bytes changed (truncated, corrupt, edited).
    """
    for name, expected in manifest.files.items():
        path = directory / name
        if Path(name).name != name:
            raise PackageError(
                f"{directory / MANIFEST_FILE}: file name {name!r} leaves the package; do not use this package"
            )
        if not path.is_file():
            raise PackageError(f"{path} is missing; copy the whole package directory again or export it again")
        if sha256_of(path) != expected:
            raise PackageError(
                f"{path} was altered or cut short (its checksum differs); copy the package again or export it again"
            )


def _from_dict(content: Mapping[str, Any], path: Path) -> Manifest:
    known = {f.name for f in dataclasses.fields(Manifest)}
    unknown = sorted(set(content) - known)
    if unknown:
        raise PackageError(f"{path}: unknown field {unknown[0]!r}; upgrade whit or export the package again")
    try:
        linears = tuple(LinearScheme(**entry) for entry in content.get("linears", ()))
        manifest = Manifest(**{**content, "linears": linears})
        _check_types(manifest)
    except (TypeError, ValueError, KeyError) as error:
        raise PackageError(f"{path}: {error}; export the package again") from None
    return manifest


def _check_types(manifest: Manifest) -> None:
    for name in ("dimension_count", "max_token_count", "vocabulary_size", "attention_bucket"):
        value = getattr(manifest, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    for name in ("files", "prompts", "provenance"):
        if not isinstance(getattr(manifest, name), dict):
            raise TypeError(f"{name} must be an object")
    missing = [name for name in REQUIRED_FILES if name not in manifest.files]
    if missing:
        raise ValueError(f"files names no {missing[0]}")


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
