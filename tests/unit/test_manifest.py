"""``manifest.json``: what it holds, and what its fingerprint covers."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.manifests import remove, write, write_static
from whit.contract.manifest import (
    GOLDEN_FILE,
    GRAPH_FILE,
    KINDS,
    REPORT_FILE,
    REQUIRED_FILES,
    STATIC,
    TABLE_FILE,
    TOKENIZER_FILE,
    Manifest,
    Ngrams,
    check_files,
    read_manifest,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write(tmp_path / "package")
    return tmp_path / "package"


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = write(tmp_path / "package")

    found = read_manifest(tmp_path / "package")

    assert found == written
    assert found.to_json() == written.to_json()
    check_files(tmp_path / "package", found)


def test_defaults_stand_for_fields_left_out(directory: Path) -> None:
    for name in (
        "normalized",
        "attention_bucket",
        "unmasked_length",
        "position_offset",
        "target",
        "instruction_set",
        "linears",
        "provenance",
    ):
        remove(directory, name)

    found = read_manifest(directory)

    assert (found.normalized, found.attention_bucket, found.target, found.linears) == (True, 16, "cpu", ())


def test_a_static_package_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = write_static(tmp_path / "static")

    found = read_manifest(tmp_path / "static")

    assert (found, found.kind, found.model_file) == (written, STATIC, TABLE_FILE)
    assert TABLE_FILE in KINDS[STATIC].required_files
    assert GRAPH_FILE not in KINDS[STATIC].required_files
    check_files(tmp_path / "static", found)


def test_a_static_fingerprint_changes_with_the_table(tmp_path: Path) -> None:
    one, other = write_static(tmp_path / "one"), write_static(tmp_path / "other")
    changed = dataclasses.replace(other, files={**other.files, TABLE_FILE: "sha256:" + "0" * 64})

    assert one.fingerprint == other.fingerprint != changed.fingerprint


def test_a_table_read_by_ngrams_needs_no_tokenizer(tmp_path: Path) -> None:
    written = write_static(tmp_path / "static", ngrams=Ngrams(3, 4), format_version=4)
    files = {name: digest for name, digest in written.files.items() if name != TOKENIZER_FILE}
    written = dataclasses.replace(written, files=files)
    (tmp_path / "static" / "manifest.json").write_text(written.to_json(), encoding="utf-8")
    (tmp_path / "static" / TOKENIZER_FILE).unlink()

    found = read_manifest(tmp_path / "static")

    assert (found, TOKENIZER_FILE in found.required_files) == (written, False)
    check_files(tmp_path / "static", found)
    assert dataclasses.replace(found, ngrams=Ngrams(3, 5)).fingerprint != found.fingerprint


def test_the_kind_of_version_1_is_not_written(directory: Path) -> None:
    content = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))

    assert "kind" not in content
    assert content["format_version"] == 1


def test_the_text_is_sorted_so_that_equal_manifests_have_equal_bytes() -> None:
    files = dict.fromkeys(REQUIRED_FILES, "sha256:" + "0" * 64)
    turned = dict(reversed(files.items()))
    one, other = (
        Manifest("n", "bert", 1, 1, 1, "mean", "int8", f, prompts=p)
        for f, p in ((files, {"a": "1", "b": "2"}), (turned, {"b": "2", "a": "1"}))
    )

    assert one.to_json() == other.to_json()
    assert json.loads(one.to_json())["fingerprint"] == one.fingerprint


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"name": "another"}, True),
        ({"provenance": {}}, True),
        ({"linears": ()}, True),
        ({"matryoshka_dimension_counts": ()}, True),
        ({"max_token_count": 63}, False),
        ({"attention_bucket": 32}, False),
        ({"unmasked_length": 48}, False),
        ({"position_offset": 2}, False),
        ({"normalized": False}, False),
        ({"prompts": {"query": "Q: "}}, False),
        ({"format_version": 2}, False),
    ],
)
def test_the_fingerprint_covers_what_changes_a_vector(tmp_path: Path, changes: dict[str, Any], same: bool) -> None:
    manifest = write(tmp_path / "package")

    other = dataclasses.replace(manifest, **changes)

    assert re.fullmatch("sha256:[0-9a-f]{64}", manifest.fingerprint)
    assert (other.fingerprint == manifest.fingerprint) is same


@pytest.mark.parametrize(
    ("name", "same"), [(GRAPH_FILE, False), (TOKENIZER_FILE, False), (GOLDEN_FILE, True), (REPORT_FILE, True)]
)
def test_the_fingerprint_covers_graph_and_tokenizer(tmp_path: Path, name: str, same: bool) -> None:
    manifest = write(tmp_path / "package")

    other = dataclasses.replace(manifest, files={**manifest.files, name: "sha256:" + "1" * 64})

    assert (other.fingerprint == manifest.fingerprint) is same
