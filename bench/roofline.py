"""Where a package stands against this machine: GEMM peaks, the model's operations, and time by operator.

python -m bench.roofline FLOAT_PACKAGE INT8_PACKAGE [--out bench/results/roofline.json]

Peaks are the best of onnxruntime's own kernels on large matrices, one thread: the rate that a model of nothing but linear
layers would reach. An operation is one multiplication or one addition.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import collection, stsb
from bench.machine import describe
from whit.contract.manifest import GRAPH_FILE
from whit.export.graph import FLOAT, MICROSOFT, UINT8, Graph
from whit.runtime import Tokenizer, open_package
from whit.runtime.encoder import Encoder, open_session, session_options

PEAK_SHAPE = (512, 1024, 1024)
ROUNDS = 30


def gemm_rate(shape: tuple[int, int, int], *, quantized: bool) -> float:
    """Operations/s of one matrix product [m, k] x [k, n] with constant weights: the best of ROUNDS."""
    m, k, n = shape
    rng = np.random.default_rng(0)
    g = Graph()
    if quantized:
        weight, zero = g.const(rng.integers(-64, 64, (k, n), np.int8)), g.const(np.array(128, np.uint8))
        scales = g.const(np.ones(n, np.float32))
        g.op("MatMulIntegerToFloat", "x", weight, g.scalar(1), scales, zero, domain=MICROSOFT, output="y")
        x: Any = rng.integers(0, 255, (m, k), np.uint8)
    else:
        g.op("MatMul", "x", g.const(rng.standard_normal((k, n), np.float32)), output="y")
        x = rng.standard_normal((m, k), np.float32)
    model = g.model({"x": (UINT8 if quantized else FLOAT, [m, k])}, {"y": [m, n]})
    session = open_session(model.SerializeToString())
    return 2 * m * k * n / min(_seconds(lambda: session.run(None, {"x": x})) for _ in range(ROUNDS))


def linear_parameters(package: Path) -> tuple[int, int]:
    """Weights of all linear layers inside the encoder, and the width of attention in all layers; read from the graph."""
    import onnx

    graph = onnx.load(str(package / GRAPH_FILE)).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    weights = [shapes[name] for node in graph.node if node.op_type.startswith("MatMul") for name in node.input[1:2] if len(shapes.get(name, ())) == 2]  # fmt: skip
    return sum(a * b for a, b in weights), sum(a for a, _ in weights[1::4])  # of qkv, out, up, down


def operations(package: Path, sequences: Sequence[Any]) -> float:
    """Operations that embedding these sequences needs: linear layers, and both products of attention."""
    parameters, hidden_layers = linear_parameters(package)
    return sum(2 * parameters * len(ids) + 4 * hidden_layers * len(ids) ** 2 for ids in sequences)


def stand(package: Path, texts: Sequence[str], peak: float) -> dict[str, Any]:
    """Rate in process on one thread, its share of the peak, and the share of each operator in the kernels' time."""
    opened = open_package(package)
    tokenizer, encoder = Tokenizer(opened), Encoder(opened)
    sequences = [tokenizer.cut(ids, opened.manifest.max_token_count) for ids in tokenizer.encode(texts)]
    encoder.encode(sequences)
    seconds = statistics.median(_seconds(lambda: encoder.encode(sequences)) for _ in range(5))
    done = operations(package, sequences)
    return {
        "mean_token_count": round(statistics.mean(map(len, sequences)), 1),
        "texts_per_s": len(sequences) / seconds,
        "giga_operations_per_s": done / seconds / 1e9,
        "share_of_peak": done / seconds / peak,
        "operator_shares": profile(package, encoder, sequences),
    }


def profile(package: Path, encoder: Encoder, sequences: Sequence[Any]) -> Mapping[str, float]:
    """Share of each operator in the time of all kernels, by onnxruntime's own profiler."""
    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder, "profile"))
        session = open_session(package / GRAPH_FILE, encoder.provider, options)
        encoder._session = session
        for _ in range(2):
            encoder.encode(sequences)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: Counter[str] = Counter()
    for event in events:
        is_kernel = event.get("cat") == "Node" and event["name"].endswith("kernel_time")
        if is_kernel and event["args"]["op_name"] != "If":  # its branches' operators are listed themselves
            spent[event["args"]["op_name"]] += event["dur"]
    return {name: round(duration / spent.total(), 4) for name, duration in spent.most_common(12)}


def _seconds(work: Callable[[], object]) -> float:
    # The processor time of this one thread: what others do on the machine does not count.
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measures and prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float_package", type=Path)
    parser.add_argument("int8_package", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    abstracts = [text for text in collection("cranfield", "dev").documents if len(text) > 1800][:24]
    texts = {"short": stsb("dev").first[:600], "tokens_256": abstracts}
    peaks = {"float32": gemm_rate(PEAK_SHAPE, quantized=False), "int8": gemm_rate(PEAK_SHAPE, quantized=True)}
    found: dict[str, Any] = {
        "machine": describe(),
        "peak_giga_operations_per_s": {k: v / 1e9 for k, v in peaks.items()},
    }
    for dtype, package in (("float32", arguments.float_package), ("int8", arguments.int8_package)):
        found[dtype] = {name: stand(package, part, peaks[dtype]) for name, part in texts.items()}
    print(json.dumps(found, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
