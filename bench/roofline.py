"""Where packages stand against this machine: GEMM peaks, the model's operations, and time by operator.

python -m bench.roofline FLOAT_PACKAGE INT8_PACKAGE... [--rounds 11] [--out bench/results/roofline.json]

The peak is what onnxruntime's own kernels reach on large matrices, one thread: the rate that a model of nothing but linear
layers would reach. int8 packages run in whit's own kernels, the first of them in onnxruntime as well. An operation is one multiplication or one addition. Peaks and packages are measured in turns, and every
ratio is that of one turn, so that a machine that others use changes both sides of it; the medians are over the turns.
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
from whit.runtime import Tokenizer, open_encoder, open_package
from whit.runtime.encoder import Encoder, open_session, session_options

PEAK_SHAPE = (512, 1024, 1024)
PEAK_TRIES = 10  # a turn


class Peak:
    """One matrix product [m, k] x [k, n] with constant weights."""

    def __init__(self, shape: tuple[int, int, int], *, quantized: bool) -> None:
        m, k, n = shape
        rng = np.random.default_rng(0)
        g = Graph()
        if quantized:
            weight, zero = g.const(rng.integers(-64, 64, (k, n), np.int8)), g.const(np.array(128, np.uint8))
            scales = g.const(np.ones(n, np.float32))
            g.op("MatMulIntegerToFloat", "x", weight, g.scalar(1), scales, zero, domain=MICROSOFT, output="y")
            self._x: Any = rng.integers(0, 255, (m, k), np.uint8)
        else:
            g.op("MatMul", "x", g.const(rng.standard_normal((k, n), np.float32)), output="y")
            self._x = rng.standard_normal((m, k), np.float32)
        model = g.model({"x": (UINT8 if quantized else FLOAT, [m, k])}, {"y": [m, n]})
        self._session = open_session(model.SerializeToString())
        self._operations = 2 * m * k * n

    def rate(self) -> float:
        """Operations/s: the best of PEAK_TRIES."""
        return self._operations / min(
            _seconds(lambda: self._session.run(None, {"x": self._x})) for _ in range(PEAK_TRIES)
        )


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


class Subject:
    """One package on one set of texts."""

    def __init__(self, package: Path, provider: str, texts: Sequence[str]) -> None:
        self._package = package
        opened = open_package(package)
        tokenizer, self._encoder = Tokenizer(opened), open_encoder(opened, provider)
        self.sequences = [tokenizer.cut(ids, opened.manifest.max_token_count) for ids in tokenizer.encode(texts)]
        self.operations = operations(package, self.sequences)
        self._encoder.encode(self.sequences)  # the first run allocates

    def seconds(self) -> float:
        """CPU seconds for all texts, in process on one thread."""
        return _seconds(lambda: self._encoder.encode(self.sequences))

    def operator_shares(self) -> Mapping[str, float]:
        """Share of each operator, or part of the model, in the time of all."""
        if isinstance(self._encoder, Encoder):
            return profile(self._package, self._encoder, self.sequences)
        return {part: round(share, 4) for part, share in self._encoder.profile(self.sequences).items()}


def stand(subject: Subject, seconds: Sequence[float], base: Sequence[float], peaks: Sequence[float]) -> dict[str, Any]:
    """Rates of a package on one set of texts, against the float package's seconds and the peaks of the same turns."""
    shares = [subject.operations / spent / peak for spent, peak in zip(seconds, peaks, strict=True)]
    times = [other / spent for spent, other in zip(seconds, base, strict=True)]
    median = statistics.median(seconds)
    return {
        "mean_token_count": round(statistics.mean(map(len, subject.sequences)), 1),
        "texts_per_s": round(len(subject.sequences) / median, 2),
        "giga_operations_per_s": round(subject.operations / median / 1e9, 1),
        "times_float32": _spread(times),
        "share_of_peak": _spread(shares),
        "operator_shares": subject.operator_shares(),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(values, n=4)
    return {"median": round(statistics.median(values), 3), "low": round(low, 3), "high": round(high, 3)}  # quartiles


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


def measure(
    packages: Mapping[str, tuple[Path, str]], texts: Mapping[str, Sequence[str]], rounds: int
) -> dict[str, Any]:
    """All packages (with their provider) on all sets of texts, ``rounds`` times in turns; the first is the base of the ratios."""
    kernels = {"float32": Peak(PEAK_SHAPE, quantized=False), "int8": Peak(PEAK_SHAPE, quantized=True)}
    subjects = {
        (name, kind): Subject(*package, part) for kind, part in texts.items() for name, package in packages.items()
    }
    peaks: dict[tuple[str, str], list[float]] = {(dtype, kind): [] for dtype in kernels for kind in texts}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in subjects}
    for _ in range(rounds):
        for kind in texts:
            for dtype, kernel in kernels.items():
                peaks[dtype, kind].append(kernel.rate())
            for name in packages:
                seconds[name, kind].append(subjects[name, kind].seconds())
    base = next(iter(packages))
    found: dict[str, Any] = {
        "machine": describe(),
        "rounds": rounds,
        "peak_giga_operations_per_s": {
            dtype: round(statistics.median(rate for kind in texts for rate in peaks[dtype, kind]) / 1e9, 1)
            for dtype in kernels
        },
    }
    for name in packages:
        found[name] = {
            kind: stand(
                *(subjects[name, kind], seconds[name, kind], seconds[base, kind]),
                peaks["float32" if name == base else "int8", kind],
            )
            for kind in texts
        }
    return found


def main() -> None:
    """Measures and prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float_package", type=Path)
    parser.add_argument("int8_package", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds must be at least 2, got {arguments.rounds}")
    abstracts = [text for text in collection("cranfield", "dev").documents if len(text) > 1800][:24]
    texts = {"short": stsb("dev").first[:600], "tokens_256": abstracts}
    first = arguments.int8_package[0]
    packages = {
        "float32": (arguments.float_package, "onnxruntime"),
        f"{first.name} in onnxruntime": (first, "onnxruntime"),
    }
    packages |= {folder.name: (folder, "native") for folder in arguments.int8_package}
    found = measure(packages, texts, arguments.rounds)
    print(json.dumps(found, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
