"""Who takes part, in which version and with which settings. A new contender is an entry here and a script in ``workers``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.reference import PACKAGES
from whit.runtime.machine import instruction_sets

ROOT = Path(__file__).parents[2]
WORKERS = Path(__file__).parent / "workers"
BUILD = Path("build/peers")
ONNX = BUILD / "models" / "onnx"
INFINITY = {"float32": BUILD / "models" / "infinity-float32", "int8": BUILD / "models" / "infinity"}
"""Folders with one graph each: of two in a folder infinity takes the quantised one."""

OPENVINO = BUILD / "models" / "openvino" / "model.xml"

MAX_TOKENS = 256
"""Where every contender cuts a text: the limit that the checkpoint's own configuration gives."""

TORCH = "torch==2.13.0"
ONNXRUNTIME = "onnxruntime==1.32.0"
TOKENIZERS = "tokenizers==0.23.3"

REQUIREMENTS: Mapping[str, Sequence[str]] = {
    "sentence-transformers": ("sentence-transformers==6.2.0", "transformers==5.23.0", TORCH),
    "sentence-transformers-onnx": (
        "sentence-transformers==5.7.0",
        "optimum-onnx==0.1.0",
        "transformers==4.57.6",
        "onnx==1.23.2",
        ONNXRUNTIME,
        TORCH,
    ),
    "fastembed": ("fastembed==0.9.1", ONNXRUNTIME, TOKENIZERS),
    "light-embed": ("light-embed==1.0.9", ONNXRUNTIME),
    "plot": ("matplotlib==3.10.7",),
    "openvino": ("openvino==2026.4.1", "nncf==3.4.0", TOKENIZERS),
    "infinity": (
        "infinity-emb[torch,optimum,server]==0.0.78",
        "sentence-transformers==3.4.1",
        "optimum-onnx==0.1.0",
        "transformers==4.57.6",
        "numpy==1.26.4",
        "aiohttp==3.14.5",
        ONNXRUNTIME,
        TORCH,
    ),
    "mlserver": ("mlserver==1.7.1", ONNXRUNTIME, TOKENIZERS),
}
"""Virtual environments by name. "whit" is not among them: it is the environment that this runs in."""


@dataclass(frozen=True, slots=True)
class Contender:
    """``environment`` is a key of REQUIREMENTS or "whit"; ``script`` lies in ``workers`` and gets ``options`` as JSON."""

    name: str
    title: str
    environment: str
    script: str
    options: Mapping[str, object] = field(default_factory=dict)

    def command(self) -> list[str]:
        """The interpreter and the script; the options come after."""
        return [str(interpreter(self.environment)), str(WORKERS / self.script)]


def interpreter(environment: str) -> Path:
    """Python of an environment; it may not be made yet."""
    return Path(sys.executable) if environment == "whit" else BUILD.absolute() / environment / "bin" / "python"


def quantization_scheme() -> str:
    """Which of sentence-transformers' dynamic int8 recipes fits this machine."""
    found = instruction_sets()
    return "avx512_vnni" if "avx512_vnni" in found else "avx512" if "avx512f" in found else "avx2"


def contenders(checkpoint: Path) -> list[Contender]:
    """All of them; the first is what the others are compared with."""
    flat, onnx = str(ONNX / "flat"), str(ONNX)
    st, fe = "run_sentence_transformers.py", "run_fastembed.py"
    return [
        Contender(
            "sentence_transformers_torch",
            "sentence-transformers 6.2.0, torch float32",
            "sentence-transformers",
            st,
            {"folder": str(checkpoint), "backend": "torch", "max_tokens": MAX_TOKENS},
        ),
        Contender(
            "sentence_transformers_onnx_int8",
            "sentence-transformers 5.7.0, its ONNX export, dynamic int8",
            "sentence-transformers-onnx",
            st,
            {"folder": onnx, "backend": "onnx", "file": "model_int8.onnx", "max_tokens": MAX_TOKENS},
        ),
        Contender(
            "fastembed_float32",
            "fastembed 0.9.1, float32, batches of 16",
            "fastembed",
            fe,
            {"folder": flat, "file": "model.onnx", "batch_size": 16},
        ),
        Contender(
            "fastembed_int8",
            "fastembed 0.9.1, the same dynamic int8, batches of 16",
            "fastembed",
            fe,
            {"folder": flat, "file": "model_int8.onnx", "batch_size": 16},
        ),
        Contender(
            "light_embed_int8",
            "light-embed 1.0.9, the same dynamic int8",
            "light-embed",
            "run_light_embed.py",
            {"folder": flat, "file": "model_int8.onnx"},
        ),
        Contender(
            "infinity_float32",
            "infinity 0.0.78 in process, float32",
            "infinity",
            "run_infinity.py",
            {"folder": str(INFINITY["float32"].absolute())},
        ),
        Contender(
            "infinity_int8",
            "infinity 0.0.78 in process, the same dynamic int8",
            "infinity",
            "run_infinity.py",
            {"folder": str(INFINITY["int8"].absolute())},
        ),
        Contender(
            "openvino_int8",
            "OpenVINO 2026.4.1, NNCF static int8, sorted batches of 32",
            "openvino",
            "run_openvino.py",
            {"folder": flat, "model": str(OPENVINO), "batch_size": 32, "max_tokens": MAX_TOKENS},
        ),
        _whit("float32", "whit float32, in process"),
        _whit("int8", "whit int8, in process"),
        Contender(
            "whit_grpc_int8",
            "whit int8 over gRPC: server and client on the same cores",
            "whit",
            "run_whit_grpc.py",
            {"package": str(PACKAGES / "int8"), "batch_size": 64, "max_tokens": MAX_TOKENS},
        ),
    ]


def _whit(dtype: str, title: str) -> Contender:
    options = {"package": str(PACKAGES / dtype), "max_tokens": MAX_TOKENS, "token_budget": 256}
    return Contender(f"whit_{dtype}", title, "whit", "run_whit.py", options)


def servers() -> list[Contender]:
    """Servers under load; the first is what the others are compared with.

    The peers serve sentence-transformers' ONNX export: in its dynamic int8, and in float32, which is quicker on some machines.
    """
    return [
        _infinity("infinity_http", "int8"),
        _infinity("infinity_http_float32", "float32"),
        _mlserver("mlserver_grpc", "int8", "model_int8.onnx"),
        _mlserver("mlserver_grpc_float32", "float32", "model.onnx"),
        Contender("whit_grpc", "whit, gRPC, int8", "whit", "serve_whit.py", {"package": str(PACKAGES / "int8")}),
    ]


def _infinity(name: str, dtype: str) -> Contender:
    options = {"folder": str(INFINITY[dtype])}
    return Contender(name, f"infinity 0.0.78, HTTP, onnxruntime {dtype}", "infinity", "serve_infinity.py", options)


def _mlserver(name: str, dtype: str, file: str) -> Contender:
    options = {"model": str(ONNX / "flat" / file), "max_tokens": MAX_TOKENS}
    return Contender(name, f"MLServer 1.7.1, gRPC, onnxruntime {dtype}", "mlserver", "serve_mlserver.py", options)
