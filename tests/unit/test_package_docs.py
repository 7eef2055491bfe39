"""docs/package-format.md says what the code does: every field, every file, an example that is read, a recipe that works."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.support import packages
from whit.contract import manifest as module
from whit.contract.manifest import FORMAT_VERSION, GRAPH_FILE, REPORT_FILE, LinearScheme, Manifest, read_manifest
from whit.runtime.encoder import LAYER_COUNT
from whit.runtime.machine import _FLAGS
from whit.runtime.verify import TOLERANCE

DOC = (Path(__file__).parents[2] / "docs" / "package-format.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOC, re.DOTALL)
    return str(found)


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table after ``heading``."""
    table = DOC.partition(heading)[2].partition("\n|")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def first_cells(heading: str) -> set[str]:
    return {row[0].strip("`| ") for row in rows(heading)}


def test_every_field_of_the_manifest_is_described() -> None:
    fields = {f.name for f in dataclasses.fields(Manifest)} | {"fingerprint"}

    assert first_cells("## manifest.json") == fields
    assert all(len(row) == 4 and all(row) for row in rows("## manifest.json"))


def test_every_field_of_a_linear_is_described() -> None:
    assert first_cells("An entry of `linears`") == {f.name for f in dataclasses.fields(LinearScheme)}


def test_every_default_is_stated() -> None:
    meanings = {row[0].strip("`| "): row[2] for row in rows("## manifest.json")}
    for field in dataclasses.fields(Manifest):
        if field.name == "format_version":
            continue
        default: Any = field.default if field.default is not dataclasses.MISSING else None
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        stated = re.search(r"Default `(.*?)`", meanings[field.name])
        assert (json.loads(stated.group(1)) if stated else None) == (list(default) if default == () else default)


def test_every_file_is_described() -> None:
    names = {value for name, value in vars(module).items() if name.endswith("_FILE")}

    assert names <= first_cells("## Files")


def test_the_version_and_tolerances_are_the_ones_in_use() -> None:
    assert f"**format version {FORMAT_VERSION}**" in DOC
    assert "1e-5 (float32, and every static package) or 2e-2 (an int8 graph" in DOC
    assert TOLERANCE == {"float32": 1e-5, "int8": 2e-2}


def test_every_instruction_set_is_named() -> None:
    assert all(f"`{name}`" in DOC for name in _FLAGS)


def test_the_example_is_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(block("json"), encoding="utf-8")

    found = read_manifest(tmp_path)

    assert json.loads(found.to_json()) == json.loads(block("json"))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_recipe_gives_the_fingerprint(dtype: str) -> None:
    names: dict[str, Any] = {}
    exec(block("python"), names)
    text = (packages.package("bert", dtype) / "manifest.json").read_text(encoding="utf-8")

    assert names["fingerprint"](json.loads(text)) == read_manifest(packages.package("bert", dtype)).fingerprint


def test_every_input_of_the_graph_is_described() -> None:
    graph = onnx.load(str(packages.package() / GRAPH_FILE)).graph

    assert first_cells("## model.onnx") == {tensor.name for tensor in graph.input} | {LAYER_COUNT}  # not in this one
    assert [tensor.name for tensor in graph.output] == ["vectors"]


def test_every_key_of_report_and_provenance_is_described() -> None:
    directory = packages.package("bert", "int8")
    report = json.loads((directory / REPORT_FILE).read_text(encoding="utf-8"))

    assert all(f"`{key}`" in DOC for key in (*report, *read_manifest(directory).provenance))
