"""Makes what the contenders need under ``build/peers``, once: virtual environments and converted models."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.data import collection, stsb
from bench.peers.contenders import (
    BUILD,
    INFINITY,
    MAX_TOKENS,
    ONNX,
    OPENVINO,
    REQUIREMENTS,
    WORKERS,
    Contender,
    interpreter,
    quantization_scheme,
)

CALIBRATION_TEXTS = 300


def prepare(wanted: Sequence[Contender], checkpoint: Path) -> dict[str, str]:
    """Installs and converts; what is there already is kept.

    Returns:
        What could not be made and why, by the contender's name. Those cannot take part.
    """
    missing: dict[str, str] = {}
    for contender in wanted:
        try:
            if contender.environment != "whit":
                environment(contender.environment)
                _models(contender, checkpoint)
        except subprocess.CalledProcessError as error:
            missing[contender.name] = f"{' '.join(map(str, error.cmd))} failed:\n{(error.stderr or '')[-2000:]}"
    return missing


def environment(name: str) -> None:
    """A virtual environment with the pinned versions; made anew when they change."""
    requirements = "\n".join(REQUIREMENTS[name]) + "\n"
    stamp = BUILD / name / "requirements.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == requirements:
        return
    print(f"installing {name}", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", BUILD / name])
    pip = [interpreter(name), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run([*pip, *REQUIREMENTS[name]])
    stamp.write_text(requirements, encoding="utf-8")


def _models(contender: Contender, checkpoint: Path) -> None:
    """The exported graphs for everyone who reads ONNX, and OpenVINO's own."""
    if contender.environment == "sentence-transformers":
        return
    if not (ONNX / "flat").is_dir():
        environment("sentence-transformers-onnx")
        print("exporting to ONNX", flush=True)
        python = interpreter("sentence-transformers-onnx")
        _run([python, WORKERS / "prepare_onnx.py", checkpoint, ONNX, str(MAX_TOKENS), quantization_scheme()])
    if contender.environment == "infinity":
        _infinity(INFINITY["float32"], "model.onnx", "model.onnx")
        # The second name is the one by which infinity knows a quantised graph.
        _infinity(INFINITY["int8"], "model_int8.onnx", "model_quantized.onnx")
    if contender.environment == "openvino" and not OPENVINO.is_file():
        print("quantising for OpenVINO", flush=True)
        OPENVINO.parent.mkdir(parents=True, exist_ok=True)
        texts = OPENVINO.with_name("calibration.txt")
        texts.write_text("\n".join(_calibration_texts()), encoding="utf-8")
        script = WORKERS / "prepare_openvino.py"
        _run([interpreter("openvino"), script, ONNX / "flat", texts, OPENVINO, str(MAX_TOKENS)])


def _infinity(folder: Path, graph: str, name: str) -> None:
    """A folder with one graph under the name that infinity expects."""
    if not folder.is_dir():
        shutil.copytree(ONNX / "flat", folder, ignore=shutil.ignore_patterns("*.onnx"))
        shutil.copy(ONNX / "flat" / graph, folder / name)


def _calibration_texts() -> list[str]:
    """Half sentences, half abstracts, none of which is measured later."""
    sentences = stsb("train").first[: CALIBRATION_TEXTS // 2]
    abstracts = collection("medline", "dev").documents[: CALIBRATION_TEXTS // 2]
    return [" ".join(text.split()) for text in (*sentences, *abstracts)]


def _run(command: Sequence[str | Path]) -> None:
    subprocess.run([str(part) for part in command], check=True, stderr=subprocess.PIPE, text=True)
