"""Manifests and packages that are refused: the message names the file and says what to do."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.manifests import REQUIRED_FIELDS, change, refusal, remove, write, write_static
from whit.contract.manifest import (
    FORMAT_VERSION,
    GRAPH_FILE,
    REQUIRED_FILES,
    STATIC,
    TABLE_FILE,
    Manifest,
    Ngrams,
    PackageError,
    check_files,
    read_manifest,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write(tmp_path / "package")
    return tmp_path / "package"


def test_a_kind_that_this_whit_does_not_know_is_refused_by_name(directory: Path) -> None:
    change(directory, kind="lookup", format_version=2)

    assert "this package is of kind 'lookup', this whit runs onnx, static; upgrade whit" in refusal(directory)


def test_a_kind_in_a_version_that_had_none_is_refused(directory: Path) -> None:
    change(directory, kind=STATIC)

    assert "kind 'static' needs format_version 2, got 1" in refusal(directory)


def test_a_dtype_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_static(tmp_path / "static", dtype="float32")

    assert "dtype must be one of float16, int8, pq, got 'float32'" in refusal(tmp_path / "static")


def test_a_static_package_without_its_table_is_refused(tmp_path: Path) -> None:
    write_static(tmp_path / "static")
    change(tmp_path / "static", files=dict.fromkeys(REQUIRED_FILES, "sha256:" + "0" * 64))

    assert f"files does not name {TABLE_FILE}" in refusal(tmp_path / "static")


def test_ngrams_of_an_older_version_are_refused(tmp_path: Path) -> None:
    write_static(tmp_path / "static", ngrams=Ngrams(3, 4))

    assert "ngrams needs format_version 4, got 2" in refusal(tmp_path / "static")


def test_ngrams_of_a_graph_are_refused(directory: Path) -> None:
    change(directory, ngrams={"shortest": 3, "longest": 4}, format_version=4)

    assert "ngrams needs kind 'static'" in refusal(directory)


def test_no_directory(tmp_path: Path) -> None:
    assert "is not a directory" in refusal(tmp_path / "nowhere")


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    assert "is not a directory" in refusal(tmp_path / "file")


def test_no_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()

    assert f"{directory / 'manifest.json'} is missing" in refusal(directory)


def test_a_directory_in_place_of_the_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()
    (directory / "manifest.json").mkdir()

    assert f"{directory / 'manifest.json'} cannot be read" in refusal(directory)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"name": "tiny"', b"[]", b"3", b"null"])
def test_a_manifest_that_is_no_json_object(directory: Path, data: bytes) -> None:
    (directory / "manifest.json").write_bytes(data)

    assert f"{directory / 'manifest.json'}" in refusal(directory)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"name": ' * 100_000, b"1" * 10_000])
def test_a_manifest_that_cannot_be_parsed(directory: Path, data: bytes) -> None:
    (directory / "manifest.json").write_bytes(data)

    assert "is not valid JSON" in refusal(directory)


@pytest.mark.parametrize(
    "changes", [{"prompts": {"query": "\ud800"}}, {"name": "\udfff"}, {"provenance": {"\ud800": 1}}]
)
def test_a_lone_surrogate(directory: Path, changes: dict[str, Any]) -> None:
    change(directory, **changes)

    assert "holds a lone surrogate" in refusal(directory)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(field=st.sampled_from([f.name for f in dataclasses.fields(Manifest)] + ["fingerprint"]), value=values)
@settings(max_examples=100, deadline=None)
def test_whatever_a_field_holds_is_taken_or_refused(field: str, value: object) -> None:
    with TemporaryDirectory() as folder:
        written = write(Path(folder, "package"))
        change(Path(folder, "package"), **{field: value})
        with suppress(PackageError):
            # What is no part of the fingerprint may change, but only to another value of the right form.
            assert read_manifest(Path(folder, "package")).fingerprint == written.fingerprint


@given(at=st.integers(0, 1500), cut=st.integers(0, 40), new=st.binary(max_size=8))
@settings(max_examples=100, deadline=None)
def test_whatever_bytes_the_manifest_holds_are_taken_or_refused(at: int, cut: int, new: bytes) -> None:
    with TemporaryDirectory() as folder:
        written = write(Path(folder, "package"))
        path = Path(folder, "package", "manifest.json")
        data = path.read_bytes()
        path.write_bytes(data[:at] + new + data[at + cut :])
        with suppress(PackageError):
            assert read_manifest(path.parent).fingerprint == written.fingerprint


def test_a_truncated_manifest(directory: Path) -> None:
    path = directory / "manifest.json"
    path.write_bytes(path.read_bytes()[:-20])

    assert "is not valid JSON" in refusal(directory)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99])
def test_a_newer_format_is_refused_before_anything_else_is_read(directory: Path, version: int) -> None:
    change(directory, format_version=version, name=3, a_new_field=True)

    message = refusal(directory)

    assert f"has format version {version}, this whit reads up to {FORMAT_VERSION}" in message
    assert "upgrade whit" in message


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, None, True])
def test_a_format_version_that_is_none(directory: Path, version: object) -> None:
    change(directory, format_version=version)

    assert "format_version must be a positive integer" in refusal(directory)


@pytest.mark.parametrize("field", [*REQUIRED_FIELDS, "files"])
def test_a_missing_field(directory: Path, field: str) -> None:
    remove(directory, field)

    assert f"{directory / 'manifest.json'}: field {field!r} is missing" in refusal(directory)


def test_every_field_without_a_default_is_tested_for_being_missing() -> None:
    required = {f.name for f in dataclasses.fields(Manifest) if f.default is f.default_factory is dataclasses.MISSING}

    assert required == {*REQUIRED_FIELDS, "files"}


def test_an_unknown_field(directory: Path) -> None:
    change(directory, surprise=1)

    assert "unknown field 'surprise'" in refusal(directory)


WRONG: dict[str, list[object]] = {
    "name": [3, None, "", "a/b", "../x", "a" * 129],
    "architecture": [3, None, ""],
    "dimension_count": [0, -1, "32", 1.5, None, True],
    "max_token_count": [0, -1, "32", 1.5, None, True],
    "vocabulary_size": [0, -1, "32", 1.5, None, True],
    "pooling": ["sum", "", None, 3],
    "dtype": ["float16", "", None, 3],
    "files": [None, [], "model.onnx", {"model.onnx": 3}, {"model.onnx": "md5:0"}],
    "normalized": [1, "true", None],
    "matryoshka_dimension_counts": [3, [0], ["8"], None],
    "layer_counts": [3, [0], ["8"], None, [3, 2], [2, 2]],
    "prompts": [[], None, {"query": 3}],
    "attention_bucket": [0, "16", None],
    "unmasked_length": [-1, "16", None, True],
    "position_offset": [-1, "2", None, True],
    "target": [3, "", None],
    "instruction_set": [3, "", None],
    "linears": [3, None, {}, [3], [{}], [{"name": 3, "scheme": "row"}], [{"name": "x", "scheme": "row", "more": 1}]],
    "provenance": [3, None, []],
    "kind": [3, "", None],
    "ngrams": [
        3,
        None,
        {},
        {"shortest": 3},
        *({"shortest": a, "longest": b} for a, b in [(1, 3), (4, 3), (3, 9), ("3", 4)]),
    ],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_field_of_the_wrong_form(directory: Path, field: str, value: object) -> None:
    change(directory, **{field: value})

    assert f"{directory / 'manifest.json'}: {field} must be" in refusal(directory)


def test_every_field_is_tested_for_the_wrong_form() -> None:
    assert {*WRONG, "format_version"} == {f.name for f in dataclasses.fields(Manifest)}


def test_a_matryoshka_length_over_the_full_one(directory: Path) -> None:
    change(directory, matryoshka_dimension_counts=[8, 33])

    assert "matryoshka_dimension_counts must be at most dimension_count (32), got 33" in refusal(directory)


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_files_that_leave_one_out(directory: Path, name: str) -> None:
    files = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["files"]
    change(directory, files={key: value for key, value in files.items() if key != name})

    assert f"files does not name {name}" in refusal(directory)


@pytest.mark.parametrize(
    "changes", [{"prompts": {}}, {"max_token_count": 32}, {"normalized": False}, {"fingerprint": "x"}]
)
def test_a_field_edited_by_hand(directory: Path, changes: dict[str, Any]) -> None:
    change(directory, **changes)

    assert "the fingerprint does not match" in refusal(directory)


def test_no_fingerprint(directory: Path) -> None:
    remove(directory, "fingerprint")

    assert "the fingerprint does not match" in refusal(directory)


@pytest.mark.parametrize("name", [*REQUIRED_FILES, "LICENSE"])
def test_a_missing_file(directory: Path, name: str) -> None:
    (directory / name).unlink()

    assert f"{directory / name} is missing" in refusal(directory)


@pytest.mark.parametrize("name", [*REQUIRED_FILES, "LICENSE"])
def test_a_truncated_file(directory: Path, name: str) -> None:
    path = directory / name
    path.write_bytes(path.read_bytes()[:-1])

    assert f"{path} was altered or cut short" in refusal(directory)


@pytest.mark.parametrize("name", [*REQUIRED_FILES, "LICENSE"])
def test_one_altered_bit(directory: Path, name: str) -> None:
    path = directory / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    assert f"{path} was altered or cut short" in refusal(directory)


def test_an_empty_file(directory: Path) -> None:
    (directory / GRAPH_FILE).write_bytes(b"")

    assert f"{directory / GRAPH_FILE} was altered or cut short" in refusal(directory)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/b"])
def test_a_file_name_that_leaves_the_package(tmp_path: Path, name: str) -> None:
    manifest = write(tmp_path / "package")
    write(tmp_path / "package", files={**manifest.files, name: "sha256:" + "0" * 64})

    assert f"file name {name!r} leaves the package" in refusal(tmp_path / "package")


def test_a_file_beside_the_package_is_nobodys_business(directory: Path) -> None:
    (directory / "notes.txt").write_text("mine")

    check_files(directory, read_manifest(directory))
