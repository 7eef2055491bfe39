"""The compiler, checkpoint folder in, package out: the same bytes every time, every family, every refusal in words."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import packages, tiny
from whit.contract.manifest import MANIFEST_FILE, REPORT_FILE, read_manifest, sha256_of
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.errors import CheckpointError
from whit.export.report import Report
from whit.export.sealing import GOLDEN_TEXTS
from whit.runtime.encoder import Encoder
from whit.runtime.package import open_package
from whit.runtime.tokenizer import Tokenizer
from whit.runtime.verify import verify

POOLINGS = ("mean", "cls", "max")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny.write_checkpoint(tmp_path / "tiny", "bert")


Exported = tuple[Path, Report, list[tuple[str, int, int]]]


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An export for all tests that only look at it: the folder of ``tiny`` and ``out``, its report and progress."""
    folder, told = tmp_path_factory.mktemp("int8"), []
    tiny.write_checkpoint(folder / "tiny")
    return folder, compile_checkpoint(folder / "tiny", folder / "out", progress=lambda *s: told.append(s)), told


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def embed(directory: Path, texts: list[str]) -> np.ndarray:
    package = open_package(directory)
    tokenizer, limit = Tokenizer(package), package.manifest.max_token_count
    return Encoder(package).encode([tokenizer.cut(ids, limit) for ids in tokenizer.encode(texts)])


FLOAT = ExportOptions(dtype="float32")

# Every family and pooling


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_and_pooling_compiles_opens_and_verifies(family: str, pooling: str, tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source", family, pooling=pooling)

    report = compile_checkpoint(source, tmp_path / "out", FLOAT)

    package = open_package(tmp_path / "out")
    outcome = verify(package, Tokenizer(package), Encoder(package))
    assert (outcome.verified, outcome.max_abs_difference, outcome.text_count) == (True, 0, len(GOLDEN_TEXTS))
    found = package.manifest
    assert (found.architecture, found.pooling, found.dtype, found.linears) == (family, pooling, "float32", ())
    assert (found.dimension_count, found.max_token_count) == (32, tiny.MAX_TOKEN_COUNT)
    assert found.vocabulary_size == len(tiny.vocabulary(family))
    assert found.fingerprint == report.fingerprint


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_compiles_to_int8(family: str) -> None:
    package = open_package(packages.package(family, "int8"))
    plain = embed(packages.package(family, "float32"), list(GOLDEN_TEXTS))
    small = embed(package.directory, list(GOLDEN_TEXTS))

    assert verify(package, Tokenizer(package), Encoder(package)).verified
    assert package.manifest.dtype == "int8"
    assert (plain * small).sum(axis=1).min() >= 0.98
    assert len({linear.name for linear in package.manifest.linears}) == len(package.manifest.linears) >= 2 * 4


# The same bytes


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_same_input_and_options_give_the_same_bytes(dtype: str, checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(dtype=dtype)

    compile_checkpoint(checkpoint, tmp_path / "one", options)
    compile_checkpoint(checkpoint, tmp_path / "in another folder" / "two", options)

    assert contents(tmp_path / "one") == contents(tmp_path / "in another folder" / "two")


def test_neither_the_seed_of_hashes_nor_the_number_of_threads_changes_a_byte(checkpoint: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from whit.export.compile import ExportOptions, compile_checkpoint\n"
        "source, out, texts = map(Path, sys.argv[1:]); compile_checkpoint(source, out, ExportOptions(calibration=texts))"
    )
    (tmp_path / "texts").write_text("\n".join(GOLDEN_TEXTS * 3), encoding="utf-8")
    for number in ("1", "2"):
        command = [sys.executable, "-W", "error", "-c", code, checkpoint, tmp_path / number, tmp_path / "texts"]
        varied = {"PYTHONHASHSEED": number, "OPENBLAS_NUM_THREADS": number}
        subprocess.run(command, check=True, env={**os.environ, **varied})

    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_nothing_of_this_machine_is_in_the_package(int8: Exported) -> None:
    for name, data in contents(int8[0] / "out").items():
        assert str(int8[0]).encode() not in data, name


def test_other_weights_give_another_fingerprint(tmp_path: Path) -> None:
    found = {
        compile_checkpoint(
            tiny.write_checkpoint(tmp_path / f"{seed}" / "tiny", seed=seed), tmp_path / f"out{seed}", FLOAT
        ).fingerprint
        for seed in (0, 1)
    }

    assert len(found) == 2


# What is carried over


def test_dense_and_normalize_modules(tmp_path: Path) -> None:
    for normalize in (True, False):
        source = tiny.write_checkpoint(tmp_path / f"{normalize}", dense_sizes=(24, 16), normalize=normalize)
        compile_checkpoint(source, tmp_path / f"out-{normalize}", FLOAT)
    unit, raw = (embed(tmp_path / f"out-{normalize}", list(GOLDEN_TEXTS)) for normalize in (True, False))
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)

    assert raw.shape == (len(GOLDEN_TEXTS), 16)
    assert np.abs(lengths - 1).min() > 1e-3
    assert np.allclose(unit, raw / lengths, atol=1e-6)
    assert read_manifest(tmp_path / "out-True").normalized
    assert not read_manifest(tmp_path / "out-False").normalized
    assert read_manifest(tmp_path / "out-True").dimension_count == 16


def test_prompts_and_matryoshka_sizes(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "document": "", "Ünïcode": "→ "}
    source = tiny.write_checkpoint(tmp_path / "tiny", prompts=prompts)
    extras = json.loads((source / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    tiny.write_json(source / "config_sentence_transformers.json", {**extras, "matryoshka_dims": [8, 16, 32]})

    compile_checkpoint(source, tmp_path / "out", FLOAT)

    found = read_manifest(tmp_path / "out")
    assert dict(found.prompts) == prompts
    assert found.matryoshka_dimension_counts == (8, 16, 32)


def test_licence_and_provenance(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "LICENSE").write_text("Do as you please.")
    (checkpoint / "LICENSES").mkdir()  # a folder is no file to copy
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")

    compile_checkpoint(checkpoint, tmp_path / "out", ExportOptions(max_layer_error=0.05))

    found = read_manifest(tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE").read_text() == "Do as you please."
    assert found.files["LICENSE"] == sha256_of(tmp_path / "out" / "LICENSE")
    assert found.provenance["license"] == "mit"
    assert found.provenance["checkpoint"] == "tiny"
    assert str(found.provenance["checkpoint_sha256"]).startswith("sha256:")
    assert found.provenance["options"]["max_layer_error"] == 0.05


@pytest.mark.parametrize(
    ("folder", "option", "name"),
    [
        ("tiny", None, "tiny"),
        ("tiny", "other", "other"),
        ("my model (v2)", None, "my-model--v2"),
        ("___", None, "model"),
        ("x" * 200, None, "x" * 128),
    ],
)
def test_name(folder: str, option: str | None, name: str, tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / folder)

    report = compile_checkpoint(source, tmp_path / "out", dataclasses.replace(FLOAT, name=option))

    assert report.name == read_manifest(tmp_path / "out").name == name


def test_fewer_tokens_than_the_checkpoint_reads(checkpoint: Path, tmp_path: Path) -> None:
    compile_checkpoint(checkpoint, tmp_path / "out", dataclasses.replace(FLOAT, max_token_count=16))

    package = open_package(tmp_path / "out")
    assert package.manifest.max_token_count == 16
    assert verify(package, Tokenizer(package), Encoder(package)).verified


def test_pooling_of_a_bare_folder(tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "tiny", pooling=None)

    compile_checkpoint(source, tmp_path / "out", dataclasses.replace(FLOAT, pooling="cls"))

    assert read_manifest(tmp_path / "out").pooling == "cls"


# The report


def test_report_of_int8(int8: Exported) -> None:
    folder, report, _ = int8

    assert report.dtype == "int8"
    assert report.speed_ratio > 0
    assert 0.98 <= report.min_cosine <= report.mean_cosine <= 1
    assert report.graph_bytes < report.float_graph_bytes
    assert sum(report.schemes.values()) == len(report.linears) == 2 * 4
    assert tuple(report.linears) == tuple(read_manifest(folder / "out").linears)
    assert all(0 <= linear.error < 1 for linear in report.linears)


def test_report_of_float32(checkpoint: Path, tmp_path: Path) -> None:
    report = compile_checkpoint(checkpoint, tmp_path / "out", FLOAT)

    assert (report.mean_cosine, report.min_cosine, report.speed_ratio, report.schemes) == (1, 1, 1, {})
    assert report.graph_bytes == report.float_graph_bytes


def test_report_json_keeps_everything_but_the_clock(int8: Exported) -> None:
    folder, report, _ = int8
    content = json.loads((folder / "out" / REPORT_FILE).read_text(encoding="utf-8"))

    fields = {f.name for f in dataclasses.fields(Report)} - {"speed_ratio", "fingerprint"}
    assert set(content) == fields | {"schemes"}
    assert content["min_cosine"] == report.min_cosine
    assert content["schemes"] == report.schemes


def test_progress_is_told_and_reaches_the_end(int8: Exported) -> None:
    for stage in {stage for stage, _, _ in int8[2]}:
        steps = [(done, total) for name, done, total in int8[2] if name == stage]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1] > 0, stage


# Where it goes


def test_an_older_package_is_replaced_whole(int8: Exported, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(int8[0] / "out", tmp_path / "out")
    (tmp_path / "out" / "left over").write_text("from before")

    compile_checkpoint(checkpoint, tmp_path / "out", FLOAT)

    assert open_package(tmp_path / "out").manifest.dtype == "float32"
    assert not (tmp_path / "out" / "left over").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny"]


def test_an_empty_folder_and_missing_parents_are_filled(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    compile_checkpoint(checkpoint, tmp_path / "empty", FLOAT)
    compile_checkpoint(checkpoint, tmp_path / "a" / "b" / "c", FLOAT)

    assert contents(tmp_path / "empty") == contents(tmp_path / "a" / "b" / "c")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_package_is_never_overwritten(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept = out / "thesis.txt" if kind == "folder" else out
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("years of work")

    with pytest.raises(CheckpointError, match="exists and is not a package; choose another --out or remove it"):
        compile_checkpoint(checkpoint, out, FLOAT)

    assert kept.read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_named_before_any_work(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(CheckpointError, match=r"file/out cannot be written \(.* in .*/file\); choose another --out$"):
        compile_checkpoint(checkpoint, tmp_path / "file" / "out", FLOAT)


def test_a_failed_export_leaves_nothing_and_keeps_the_older_package(checkpoint: Path, tmp_path: Path) -> None:
    compile_checkpoint(checkpoint, tmp_path / "out", FLOAT)
    before = contents(tmp_path / "out")

    with pytest.raises(CheckpointError):
        compile_checkpoint(checkpoint, tmp_path / "out", ExportOptions(calibration=tmp_path / "nowhere.txt"))

    assert contents(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny"]


# What is refused


def refusal(checkpoint: Path, tmp_path: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as refused:
        compile_checkpoint(checkpoint, tmp_path / "out", ExportOptions(**options))
    assert not (tmp_path / "out" / MANIFEST_FILE).exists()
    return str(refused.value)


def test_no_checkpoint(tmp_path: Path) -> None:
    assert "is not a folder; give the folder that holds config.json" in refusal(tmp_path / "nowhere", tmp_path)


def test_unsupported_architecture(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    tiny.write_json(checkpoint / "config.json", {**config, "model_type": "gpt2"})

    assert (
        refusal(checkpoint, tmp_path)
        == "config.json: model_type 'gpt2' is not one of bert, roberta, xlm-roberta, electra, distilbert, mpnet"
    )


def test_missing_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()

    message = refusal(checkpoint, tmp_path)

    assert f"{checkpoint / 'tokenizer.json'} is missing" in message
    assert "save_pretrained" in message


def test_missing_weights(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").unlink()

    assert f"{checkpoint / 'model.safetensors'} is missing" in refusal(checkpoint, tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "int4", "", "INT8"])
def test_unknown_dtype(dtype: str, checkpoint: Path, tmp_path: Path) -> None:
    assert f"dtype must be one of float32, int8, got {dtype!r}" in refusal(checkpoint, tmp_path, dtype=dtype)


@pytest.mark.parametrize("name", ["", "a/b", "-a", "a b", "a" * 129])
def test_unfit_name(name: str, checkpoint: Path, tmp_path: Path) -> None:
    message = refusal(checkpoint, tmp_path, name=name)

    assert message.startswith("name must be 1 to 128 of letters, digits")
    assert repr(name) in message


@pytest.mark.parametrize("count", [65, 7, 1, 0, -1])
def test_token_limit_out_of_range(count: int, checkpoint: Path, tmp_path: Path) -> None:
    message = refusal(checkpoint, tmp_path, max_token_count=count)

    assert message == f"max_token_count must be 8 to 64 (the model's positions), got {count}"


@pytest.mark.parametrize("error", [0, 1, -0.1, float("nan")])
def test_layer_error_out_of_range(error: float, checkpoint: Path, tmp_path: Path) -> None:
    assert "max_layer_error must be between 0 and 1" in refusal(checkpoint, tmp_path, max_layer_error=error)


def test_calibration_file_that_is_missing(checkpoint: Path, tmp_path: Path) -> None:
    message = refusal(checkpoint, tmp_path, calibration=tmp_path / "nowhere.txt")

    assert f"calibration text {tmp_path / 'nowhere.txt'} cannot be read" in message
    assert "give a UTF-8 file, one text a line" in message


@pytest.mark.parametrize(("data", "count"), [(b"", 0), (b"\n \n\t\n", 0), (b"one\ntwo\n\n", 2)])
def test_calibration_file_with_too_few_lines(data: bytes, count: int, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_bytes(data)

    message = refusal(checkpoint, tmp_path, calibration=tmp_path / "texts.txt")

    assert f"calibration text {tmp_path / 'texts.txt'} has {count} texts; give at least 8" in message


def test_calibration_file_that_is_no_text(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_bytes(b"\xff\xfe\x00binary")

    assert "cannot be read" in refusal(checkpoint, tmp_path, calibration=tmp_path / "texts.txt")


def test_calibration_on_texts_of_ones_own(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(f"the server answers number {i}" for i in range(12)))

    report = compile_checkpoint(checkpoint, tmp_path / "out", ExportOptions(calibration=tmp_path / "texts.txt"))

    assert report.text_count == 12
    assert read_manifest(tmp_path / "out").provenance["calibration_text_count"] == 12
