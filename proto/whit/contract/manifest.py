"""The package manifest: what a package is, as data, and the checks that need nothing but the files themselves.

A package is an immutable directory; docs/package-format.md describes it. This module reads and writes ``manifest.json``,
computes the fingerprint and proves that the files are the ones the manifest names. It runs no model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from whit.contract.names import MODEL_ID_RULE, is_model_id
from whit.contract.pooling import POOLING_RULE, is_pooling

FORMAT_VERSION = 4  # the newest that this whit reads; a package has the version that it needs
MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "model.onnx"
TABLE_FILE = "table.safetensors"
TOKENIZER_FILE = "tokenizer.json"
GOLDEN_FILE = "golden.json"
REPORT_FILE = "report.json"
REQUIRED_FILES = (GRAPH_FILE, TOKENIZER_FILE, GOLDEN_FILE, REPORT_FILE)

SHALLOWER_VERSION = 3  # the first with layer_counts
NGRAM_VERSION = 4  # the first with ngrams
LONGEST_NGRAM = 8  # characters: longer ones are words

# What may run a graph: whit's own kernels where they can (auto), always, or never.
PROVIDERS = ("auto", "native", "onnxruntime")

CPU = "CPUExecutionProvider"  # onnxruntime on the CPU, as it calls itself

ONNX = "onnx"
STATIC = "static"
NGRAM_TABLE = "static-ngrams"  # architecture of a table that is read without a tokenizer

_SHA256 = re.compile("sha256:[0-9a-f]{64}")


class PackageError(Exception):
    """A package cannot be used. The message names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What computes the vectors of a package: the file that holds it, how it may be stored, what can read it."""

    model_file: str
    dtypes: Sequence[str]
    format_version: int  # the first version with this kind; packages of the kind are written in it

    @property
    def required_files(self) -> tuple[str, ...]:
        """Files that a package of this kind always has, beside the manifest."""
        return (self.model_file, *REQUIRED_FILES[1:])


KINDS: Mapping[str, Kind] = {
    ONNX: Kind(GRAPH_FILE, ("float32", "int8"), format_version=1),
    STATIC: Kind(TABLE_FILE, ("float16", "int8", "pq"), format_version=2),
}


@dataclass(frozen=True, slots=True)
class LinearScheme:
    """How one linear layer was compiled.

    ``scheme`` is ``float32``, ``static`` (int8, calibrated activation scale), ``smoothed`` (static with a factor for each
    channel) or ``row`` (int8, one activation scale a token). ``error`` is what it costs on calibration text: the root mean
    square error of the layer's output, relative to its standard deviation.
    """

    name: str
    scheme: str
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class Ngrams:
    """How a text is read without a tokenizer: its words' n-grams of characters, each hashed to a row of the table.

    ``shortest`` and ``longest`` are lengths in characters, both included, of words between boundary marks;
    docs/package-format.md has the hash.
    """

    shortest: int
    longest: int


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` holds; docs/package-format.md describes every field.

    ``fingerprint`` covers what changes a vector: the graph or table, the tokenizer and what the runtime reads from here.
    """

    name: str
    architecture: str
    dimension_count: int
    max_token_count: int
    vocabulary_size: int
    pooling: str  # one of ``whit.contract.pooling.POOLINGS``
    dtype: str  # one of ``KINDS[kind].dtypes``
    files: Mapping[str, str]  # file name -> "sha256:..." of its bytes
    normalized: bool = True  # the graph's output has length 1
    matryoshka_dimension_counts: Sequence[int] = ()
    layer_counts: Sequence[int] = ()  # it can be run with so many layers, the last is all; empty: with all only
    prompts: Mapping[str, str] = field(default_factory=dict)
    attention_bucket: int = 16  # the attention length of a text is its token count rounded up to a multiple of this
    unmasked_length: int = 0  # attention length of texts with exactly so many tokens, which need no mask; 0: none
    position_offset: int = 0  # position id of the first token (2 in RoBERTa)
    target: str = "cpu"
    instruction_set: str = "any"  # what the machine must have for the numbers to hold; "any": no assumption
    linears: Sequence[LinearScheme] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ONNX
    ngrams: Ngrams | None = None  # of a table that is read without a tokenizer; None: the package has one
    format_version: int = 1

    @property
    def required_files(self) -> tuple[str, ...]:
        """Files that this package always has, beside the manifest."""
        return tuple(n for n in KINDS[self.kind].required_files if n != TOKENIZER_FILE or not self.ngrams)

    @property
    def model_file(self) -> str:
        """Name of the file that the vectors are computed from."""
        return KINDS[self.kind].model_file

    @cached_property  # every response of a server carries it
    def fingerprint(self) -> str:
        """``sha256:`` and 64 hexadecimal digits over graph or table, tokenizer and everything else that changes a vector."""
        content = {
            "format_version": self.format_version,
            "files": {name: self.files[name] for name in (self.model_file, TOKENIZER_FILE) if name in self.files},
            "max_token_count": self.max_token_count,
            "attention_bucket": self.attention_bucket,
            "unmasked_length": self.unmasked_length,
            "position_offset": self.position_offset,
            "normalized": self.normalized,
            "prompts": dict(self.prompts),
        }
        if self.layer_counts:
            content["layer_counts"] = list(self.layer_counts)
        if self.ngrams:
            content["ngrams"] = dataclasses.asdict(self.ngrams)
        return "sha256:" + hashlib.sha256(_canonical(content)).hexdigest()

    def to_json(self) -> str:
        """Canonical text of ``manifest.json``: the same manifest always gives the same bytes."""
        content = dataclasses.asdict(self) | {"fingerprint": self.fingerprint}
        if self.kind == ONNX:  # what version 1 takes for granted, so that its packages keep their bytes
            del content["kind"]
        if not self.layer_counts:
            del content["layer_counts"]
        if not self.ngrams:
            del content["ngrams"]
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
    except OSError as error:
        raise PackageError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number too long or nesting too deep to read
        raise PackageError(f"{path} is not valid JSON ({error}); copy the package again or export it again") from None
    if not isinstance(content, dict):
        raise PackageError(f"{path} does not hold a JSON object; copy the package again or export it again")
    version = content.get("format_version")
    if type(version) is not int or version < 1:
        raise PackageError(
            f"{path}: format_version must be a positive integer, got {version!r}; export the package again"
        )
    if version > FORMAT_VERSION:
        raise PackageError(
            f"{path} has format version {version}, this whit reads up to {FORMAT_VERSION}; "
            "upgrade whit (pip install -U whit) or export the package with this version"
        )
    try:
        _canonical(content)
    except UnicodeEncodeError:
        raise PackageError(f"{path} holds a lone surrogate, which is no text; export the package again") from None
    fingerprint = content.pop("fingerprint", None)
    manifest = _from_dict(content, path)
    if fingerprint != manifest.fingerprint:
        raise PackageError(
            f"{path}: the fingerprint does not match its content, so it was edited, or made by another version of whit; "
            "export the package again"
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
        try:
            found = sha256_of(path)
        except OSError as error:
            raise PackageError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
        if found != expected:
            raise PackageError(
                f"{path} was altered or cut short (its checksum differs); copy the package again or export it again"
            )


def _from_dict(content: Mapping[str, Any], path: Path) -> Manifest:
    required = {f.name for f in dataclasses.fields(Manifest) if f.default is f.default_factory is dataclasses.MISSING}
    missing = sorted(required - set(content))
    if missing:
        raise PackageError(f"{path}: field {missing[0]!r} is missing; export the package again")
    for name, value in content.items():
        if name not in _RULES:
            raise PackageError(f"{path}: unknown field {name!r}; upgrade whit or export the package again")
        holds, rule = _RULES[name]
        if not holds(value):
            raise PackageError(f"{path}: {name} must be {rule}, got {str(value)[:80]!r}; export the package again")
    kind = _kind(content, path)
    if content["dtype"] not in kind.dtypes:
        raise PackageError(
            f"{path}: dtype must be one of {', '.join(kind.dtypes)}, got {content['dtype']!r}; export the package again"
        )
    counts = tuple(content.get("matryoshka_dimension_counts", ()))
    if any(count > content["dimension_count"] for count in counts):
        raise PackageError(
            f"{path}: matryoshka_dimension_counts must be at most dimension_count ({content['dimension_count']}), "
            f"got {max(counts)}; export the package again"
        )
    depths = tuple(content.get("layer_counts", ()))
    if depths and content["format_version"] < SHALLOWER_VERSION:
        raise PackageError(
            f"{path}: layer_counts needs format_version {SHALLOWER_VERSION}, got {content['format_version']}; "
            "export the package again"
        )
    ngrams = _ngrams(content, path)
    linears = tuple(LinearScheme(**entry) for entry in content.get("linears", ()))
    read = {"linears": linears, "matryoshka_dimension_counts": counts, "layer_counts": depths, "ngrams": ngrams}
    manifest = Manifest(**{**content, **read})
    for name in manifest.required_files:
        if name not in manifest.files:
            raise PackageError(f"{path}: files does not name {name}; export the package again")
    return manifest


def _ngrams(content: Mapping[str, Any], path: Path) -> Ngrams | None:
    if "ngrams" not in content:
        return None
    if content["format_version"] < NGRAM_VERSION:
        raise PackageError(
            f"{path}: ngrams needs format_version {NGRAM_VERSION}, got {content['format_version']}; export the package again"
        )
    if content.get("kind") != STATIC:
        raise PackageError(
            f"{path}: ngrams needs kind {STATIC!r}: only a table is read by them; export the package again"
        )
    return Ngrams(**content["ngrams"])


def _kind(content: Mapping[str, Any], path: Path) -> Kind:
    name = content.get("kind", ONNX)
    if name not in KINDS:
        raise PackageError(
            f"{path}: this package is of kind {name!r}, this whit runs {', '.join(KINDS)}; "
            "upgrade whit (pip install -U whit) or export the package with this version"
        )
    if content["format_version"] < KINDS[name].format_version:
        raise PackageError(
            f"{path}: kind {name!r} needs format_version {KINDS[name].format_version}, "
            f"got {content['format_version']}; export the package again"
        )
    return KINDS[name]


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1  # a bool is an int too, but not a count


def _is_ascending(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_count, value)) and value == sorted(set(value))


def _is_linear(value: object) -> bool:
    names = {f.name for f in dataclasses.fields(LinearScheme)}
    return (
        isinstance(value, dict)
        and {"name", "scheme"} <= set(value) <= names
        and isinstance(value["name"], str)
        and isinstance(value["scheme"], str)
        and type(value.get("error", 0.0)) in (int, float)
    )


def _is_ngrams(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {f.name for f in dataclasses.fields(Ngrams)}
        and all(map(_is_count, value.values()))
        and 2 <= value["shortest"] <= value["longest"] <= LONGEST_NGRAM
    )


def _is_map_of_text(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


_COUNT = (_is_count, "a positive integer")
_TEXT = (lambda value: isinstance(value, str) and value != "", "text")

# What each field of manifest.json must be, in the words of the error message.
_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str) and is_model_id(value), MODEL_ID_RULE),
    "architecture": _TEXT,
    "dimension_count": _COUNT,
    "max_token_count": _COUNT,
    "vocabulary_size": _COUNT,
    "pooling": (is_pooling, f"one of {POOLING_RULE}"),
    "dtype": _TEXT,
    "files": (
        lambda value: _is_map_of_text(value) and all(_SHA256.fullmatch(digest) for digest in value.values()),
        "an object of file names and their sha256:... digests",
    ),
    "normalized": (lambda value: isinstance(value, bool), "true or false"),
    "matryoshka_dimension_counts": (
        lambda value: isinstance(value, list) and all(map(_is_count, value)),
        "a list of positive integers",
    ),
    "layer_counts": (_is_ascending, "a list of positive integers in ascending order"),
    "prompts": (_is_map_of_text, "an object of roles and their prompts"),
    "attention_bucket": _COUNT,
    "unmasked_length": (lambda value: type(value) is int and value >= 0, "an integer, 0 or more"),
    "position_offset": (lambda value: type(value) is int and value >= 0, "an integer, 0 or more"),
    "target": _TEXT,
    "instruction_set": _TEXT,
    "linears": (
        lambda value: isinstance(value, list) and all(map(_is_linear, value)),
        "a list of objects with name, scheme and error",
    ),
    "provenance": (lambda value: isinstance(value, dict), "an object"),
    "kind": _TEXT,
    "ngrams": (
        _is_ngrams,
        f"an object of shortest and longest, integers with 2 <= shortest <= longest <= {LONGEST_NGRAM}",
    ),
    "format_version": _COUNT,
}


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
