"""``whit export``, ``whit verify`` and ``whit inspect`` on a tiny checkpoint: what they print, and what they refuse."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny import edit_json, write_checkpoint, write_json
from whit.cli.app import run
from whit.cli.export import is_nameless
from whit.contract.manifest import read_manifest, sha256_of
from whit.export import compile as compiler
from whit.export.checkpoint import ROUNDING_FILE, read_checkpoint
from whit.export.families import encoder_weights
from whit.export.trained import LayerRounding, Rounding


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packages") / "tiny"
    assert run(["export", str(checkpoint), "--out", str(out), "--dtype", "float32"]) == 0
    return out


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    return shutil.copytree(package, tmp_path / "copy")


def failure(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str]:
    """Exit code and the one line on stderr of a command that must fail without a result."""
    code = run(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return code, captured.err.strip()


# --- export -----------------------------------------------------------------------------------------------------------


def test_int8_table_has_size_cosine_speed_and_every_layer(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "packages" / "tiny-int8"

    assert run(["export", str(checkpoint), "--out", str(out), "--name", "tiny-int8"]) == 0

    printed = capsys.readouterr()
    manifest = read_manifest(out)
    assert printed.err == ""
    assert (manifest.name, manifest.dtype) == ("tiny-int8", "int8")
    assert manifest.fingerprint in printed.out
    assert "of float32's" in printed.out
    assert "cosine to float32  mean 0.9" in printed.out
    assert "times float32's texts/s" in printed.out
    rows = {tuple(line.split()) for line in printed.out.splitlines()}
    assert manifest.linears
    assert {(lin.name, lin.scheme, f"{lin.error:.4f}") for lin in manifest.linears} <= rows
    assert printed.out.splitlines()[-1] == f"next: whit verify {out}, or whit serve --models {out}"


def test_an_export_that_is_told_to_end_leaves_nothing_half_made(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiler, "measure", lambda *_: os.kill(os.getpid(), signal.SIGTERM))

    assert run(["export", str(checkpoint), "--out", str(tmp_path / "out"), "--dtype", "float32"]) == 130

    assert capsys.readouterr().err.strip() == "whit: interrupted"
    assert list(tmp_path.iterdir()) == []


def test_what_to_know_about_a_checkpoint_is_said(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = shutil.copytree(checkpoint, tmp_path / "source"), tmp_path / "out"
    edit_json(source / "config_sentence_transformers.json", prompts={"query": "q: "}, default_prompt_name="query")

    assert run(["export", str(source), "--out", str(out), "--dtype", "float32", "--json", "--name", "tiny"]) == 0

    captured = capsys.readouterr()
    assert captured.err.startswith("sentence-transformers puts the prompt 'query' before texts")
    (said,) = json.loads((out / "report.json").read_text(encoding="utf-8"))["notes"]
    assert captured.err == f"{said}\n"
    assert json.loads(captured.out)["notes"] == [said]


@pytest.fixture
def trained(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint with the rounding of one layer, as ``whit distill --qat`` leaves it, and a file of texts in it."""
    folder = shutil.copytree(checkpoint, tmp_path / "trained")
    weight = encoder_weights(read_checkpoint(folder)).layers[0].up.weight
    Rounding({"layers.0.up": LayerRounding(np.abs(weight).max(axis=0) / 127)}, {}).write(folder)
    (folder / "texts.txt").write_text("\n".join(f"line {n} of the text" for n in range(12)))
    return folder


def test_an_option_that_changes_nothing_in_trained_codes_is_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "export",
        str(trained),
        "--out",
        str(tmp_path / "package"),
        "--calibration",
        str(trained / "texts.txt"),
    ]

    assert run(arguments) == 0
    said = capsys.readouterr().err
    assert said.startswith("calibration chose nothing: the int8 codes are those that the checkpoint was trained with")
    assert said.count("\n") == 1
    fingerprint = read_manifest(tmp_path / "package").fingerprint

    assert run(arguments[:4]) == 0
    assert capsys.readouterr().err == ""
    assert read_manifest(tmp_path / "package").fingerprint == fingerprint

    (trained / ROUNDING_FILE).unlink()
    assert run(arguments) == 0
    assert capsys.readouterr().err == ""
    assert read_manifest(tmp_path / "package").fingerprint != fingerprint


def test_a_recipe_names_them_too(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('checkpoint = "trained"\n[export]\ncalibration = "trained/texts.txt"\nmax_layer_error = 0.01\n')

    assert run(["export", "--recipe", str(recipe), "--out", str(tmp_path / "package")]) == 0

    assert capsys.readouterr().err.startswith("calibration and max_layer_error chose nothing: ")


def test_json_is_the_report_alone(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, calibration = tmp_path / "mini", tmp_path / "texts.txt"
    calibration.write_text("\n".join(f"line {n} of the text" for n in range(12)))

    options = ["--calibration", str(calibration), "--max-token-count", "32", "--pooling", "mean"]
    assert run(["export", str(checkpoint), "--out", str(out), "--json", *options]) == 0

    report = json.loads(capsys.readouterr().out)
    manifest = read_manifest(out)
    assert report["package"] == str(out)
    assert report["fingerprint"] == manifest.fingerprint
    assert report["text_count"] == 12
    assert manifest.max_token_count == 32
    assert 0.9 < report["min_cosine"] <= report["mean_cosine"] <= 1
    assert report["graph_bytes"] < report["float_graph_bytes"]
    assert sum(report["schemes"].values()) == len(report["linears"]) == len(manifest.linears)
    assert report["speed_ratio"] > 0


def test_float32_is_compared_with_nothing(package: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(checkpoint), "--out", str(package), "--dtype", "float32"]) == 0

    printed = capsys.readouterr().out
    assert "tiny, float32" in printed
    assert "cosine" not in printed
    assert read_manifest(package).dtype == "float32"


def test_a_folder_called_model_is_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_checkpoint(tmp_path / "model")

    assert run(["export", str(folder), "--out", str(tmp_path / "out"), "--dtype", "float32", "--json"]) == 0

    captured = capsys.readouterr()
    assert json.loads(captured.out)["name"] == "model"
    assert captured.err == (
        "the package is called 'model', after its folder; --name gives it a name to serve it under\n"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model", True),
        ("Model", True),
        ("checkpoint-500", True),
        ("c9745ed1d9f207416be6d2e6f8de32d1f16199bf", True),
        ("all-MiniLM-L6-v2", False),
        ("bge-small-en", False),
        ("modelbert", False),
    ],
)
def test_names_that_say_nothing(name: str, expected: bool) -> None:
    assert is_nameless(name) is expected


def test_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = failure(capsys, ["export", str(tmp_path / "nope"), "--out", str(tmp_path / "out")])

    assert code == 1
    assert line == (
        f"whit export: {tmp_path}/nope is not a folder; give the folder that holds config.json and model.safetensors"
    )
    assert not (tmp_path / "out").exists()


def test_folder_without_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()

    code, line = failure(capsys, ["export", str(tmp_path / "empty"), "--out", str(tmp_path / "out")])

    assert code == 1
    assert line.startswith("whit export: ")
    assert "config.json" in line


def test_unknown_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_checkpoint(tmp_path / "strange")
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | {"model_type": "mamba"})

    code, line = failure(capsys, ["export", str(folder), "--out", str(tmp_path / "out")])

    assert code == 1
    assert "mamba" in line


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        (["--dtype", "int4"], 2, "'int4' is not one of 'int8', 'float32'"),
        (["--pooling", "sum"], 2, "--pooling must be one of mean, cls, max,"),
        (["--max-token-count", "0"], 2, "0 is not in the range x>=1"),
        (["--max-token-count", "9999"], 2, "--max-token-count must be 8 to 64"),
        (["--embedding-code-count", "8"], 2, "--embedding-code-count goes with --embedding-dtype pq."),
        (["--name", "a/b"], 2, "--name must be 1 to 128 of letters, digits"),
        (["--calibration", "no-such-file.txt"], 1, "no-such-file.txt cannot be read"),
    ],
)
def test_option_that_cannot_be_used(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, part: str
) -> None:
    found, line = failure(capsys, ["export", str(checkpoint), "--out", str(tmp_path / "out"), *options])

    assert found == code
    assert line.startswith("whit export: ")
    assert part in line
    assert not (tmp_path / "out").exists()


def test_a_recipe_is_spoken_of_in_its_own_keys(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    arguments = ["export", str(checkpoint), "--recipe", str(recipe), "--out", str(tmp_path / "package")]

    recipe.write_text("[export]\nmax_token_count = 9999\n")
    assert failure(capsys, arguments)[1] == (
        f"whit export: {recipe}: [export]: max_token_count must be 8 to 64 (the model's positions), got 9999"
    )
    recipe.write_text("[export]\nmax_tokens = 9999\n")
    assert "did you mean 'max_token_count'?" in failure(capsys, arguments)[1]


def test_directory_that_is_no_package_is_left_alone(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")

    code, line = failure(capsys, ["export", str(checkpoint), "--out", str(tmp_path / "mine")])

    assert code == 1
    assert line == f"whit export: {tmp_path}/mine exists and is not a package; choose another --out or remove it"
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_out_below_a_file(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")

    code, line = failure(capsys, ["export", str(checkpoint), "--out", str(tmp_path / "file" / "out")])

    assert code == 1
    assert f"{tmp_path}/file" in line


# --- verify and inspect -----------------------------------------------------------------------------------------------


def test_verify(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(package), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verified"] is True
    assert found["fingerprint"] == read_manifest(package).fingerprint
    assert found["text_count"] >= 5

    assert run(["verify", str(package)]) == 0
    assert "verified in" in capsys.readouterr().out


def test_verify_reports_other_vectors(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = json.loads((copy / "golden.json").read_text())
    golden["texts"][3]["vector"][0] += 0.01
    (copy / "golden.json").write_text(json.dumps(golden))
    files = json.loads((copy / "manifest.json").read_text())["files"]
    edit_json(copy / "manifest.json", files=files | {"golden.json": sha256_of(copy / "golden.json")})

    assert run(["verify", str(copy)]) == 1

    captured = capsys.readouterr()
    assert "NOT VERIFIED" in captured.out
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"whit verify: {copy} gives other vectors on this machine (largest difference ")


@pytest.mark.parametrize("name", ["verify", "inspect"])
def test_damaged_package_is_one_line_that_says_what_to_do(
    copy: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    graph = (copy / "model.onnx").read_bytes()
    altered = bytearray(graph)
    altered[len(altered) // 2] ^= 1
    for content in (bytes(altered), graph[:-100], b""):
        (copy / "model.onnx").write_bytes(content)
        code, line = failure(capsys, [name, str(copy)])
        assert code == 1
        assert line.startswith(f"whit {name}: {copy}/model.onnx was altered or cut short")
        assert "again" in line
    (copy / "model.onnx").unlink()
    code, line = failure(capsys, [name, str(copy)])
    assert code == 1
    assert line.startswith(f"whit {name}: {copy}/model.onnx is missing; ")


@pytest.mark.parametrize("name", ["verify", "inspect"])
def test_package_of_a_newer_format(copy: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    edit_json(copy / "manifest.json", format_version=99)

    code, line = failure(capsys, [name, str(copy)])

    assert code == 1
    assert "format version 99" in line
    assert "upgrade whit" in line


def test_package_for_another_cpu(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(copy / "manifest.json", instruction_set="sparc-vis3")

    code, line = failure(capsys, ["verify", str(copy)])

    assert code == 1
    assert "needs a CPU with sparc-vis3" in line
    assert "export the package on this machine" in line


@pytest.mark.parametrize("name", ["verify", "inspect"])
def test_not_a_package(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        code, line = failure(capsys, [name, str(path)])
        assert code == 1
        assert "whit export CHECKPOINT --out DIR" in line


def test_inspect(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(package), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    manifest = read_manifest(package)
    assert found["manifest"]["fingerprint"] == manifest.fingerprint
    assert found["size_bytes"] == {name: (package / name).stat().st_size for name in manifest.files}
    assert found["report"]["dtype"] == "float32"

    assert run(["inspect", str(package)]) == 0
    printed = capsys.readouterr().out
    assert manifest.fingerprint in printed
    assert all(name in printed for name in manifest.files)
