"""Runs a package's graph with onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from whit.contract.manifest import CPU, GRAPH_FILE, Manifest, PackageError
from whit.runtime.claims import check_claims, sizes_in
from whit.runtime.package import Package
from whit.runtime.packing import TokenIds, attention_length, micro_batches, pack, run_all

OUTPUT = "vectors"
LAYER_COUNT = "layer_count"

# SkipLayerNormalization is several times slower per element on the CPU than the Add and LayerNormalization it replaces.
_DISABLED_OPTIMIZERS = ["SkipLayerNormFusion", "BiasSkipLayerNormFusion"]


def session_options() -> onnxruntime.SessionOptions:
    """The options of every session in whit.

    One thread a call (whit runs calls side by side), no spinning, no memory kept for shapes that will not come back. No arena: it
    would hand the buffers that one thread has just freed to another one, whose core must fetch them from the first one's
    cache; two threads then take up to 1.45 times as long, or not, as the buffers happen to fall. The system's allocator keeps
    a heap for each thread.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def open_session(
    graph: Path | bytes, provider: str = CPU, options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """A session of a graph file or of serialised graph bytes; ``options`` None: those of ``session_options``.

    Raises:
        PackageError: onnxruntime cannot load it, or offers no such provider on this machine.
    """
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise PackageError(f"execution provider {provider} is not available here; choose one of {', '.join(available)}")
    source = graph if isinstance(graph, bytes) else str(graph)
    try:
        return onnxruntime.InferenceSession(
            source, options or session_options(), providers=[provider], disabled_optimizers=_DISABLED_OPTIMIZERS
        )
    except Exception as error:  # onnxruntime's exception types are private
        name = "the graph" if isinstance(graph, bytes) else str(graph)
        raise PackageError(f"onnxruntime cannot load {name}: {error}; export the package again") from error


class Encoder:
    """One session of one package. ``run`` may be called from several threads at once.

    Raises:
        PackageError: onnxruntime cannot load its graph, or that has less than the manifest says.
    """

    most_cores = 1  # with more a session would keep threads of its own, spinning or slow to wake (docs/performance.md)

    def __init__(self, package: Package, *, provider: str = CPU) -> None:
        self.manifest: Manifest = package.manifest
        self.provider = provider
        path = package.directory / GRAPH_FILE
        sizes = sizes_in(path)
        if sizes is not None:
            check_claims(package, sizes)
        self._session = open_session(path, provider)
        if sizes is None:
            self._try_the_most(path)

    @property
    def unmasked_length(self) -> int:
        """The attention length that may not share a micro-batch with others; 0: none."""
        return self.manifest.unmasked_length

    def attention_length(self, token_count: int) -> int:
        """Length of the attention grid of a text with ``token_count`` tokens: a function of the text alone."""
        return attention_length(token_count, self.manifest.attention_bucket, self.manifest.unmasked_length)

    def run(self, sequences: Sequence[TokenIds], layer_count: int = 0, core_count: int = 1) -> NDArray[np.float32]:
        """Vectors of one micro-batch.

        Args:
            sequences: int64 [token count] each, 1 to ``manifest.max_token_count`` tokens within the vocabulary. Those
                of the unmasked length must be among themselves; others share a grid of the longest one's length.
            layer_count: compute only so many layers, one of ``manifest.layer_counts``; 0: all.
            core_count: as ``most_cores``; a session has one thread.

        Returns:
            float32 [len(sequences), dimension_count]; a row depends on its own sequence only, to the last bit (with
            several attention lengths: where ``Verification.mixes_lengths`` is true).

        Raises:
            ValueError: sequences of the unmasked length beside others; a layer count that the package does not have.
        """
        del core_count
        depths = self.manifest.layer_counts
        if layer_count and layer_count not in depths:
            raise ValueError(f"layer_count must be 0 or one of {list(depths)}, got {layer_count}")
        lengths = {self.attention_length(len(ids)) for ids in sequences}
        if len(lengths) > 1 and self.manifest.unmasked_length in lengths:
            raise ValueError(
                f"a micro-batch has sequences of {self.manifest.unmasked_length} tokens, which run without a mask, beside "
                f"shorter ones (attention lengths {sorted(lengths)}); run them apart"
            )
        # A single token would take onnxruntime's matrix-vector kernels, which round differently: run it twice over.
        padded = [*sequences, *sequences] if len(sequences) == 1 and len(sequences[0]) == 1 else sequences
        feeds = pack(padded, length=max(lengths), position_offset=self.manifest.position_offset)
        if depths:
            feeds[LAYER_COUNT] = np.array([layer_count or depths[-1]])
        vectors: NDArray[np.float32] = self._session.run([OUTPUT], feeds)[0]
        return vectors[: len(sequences)]

    def _try_the_most(self, path: Path) -> None:
        """Runs the longest text of the last token: what a graph refuses at load, it refuses no caller."""
        last, most = self.manifest.vocabulary_size - 1, self.manifest.max_token_count
        try:
            self.run([np.full(most, last, np.int64)])
        except Exception as error:  # onnxruntime's exception types are private
            raise PackageError(
                f"{path} cannot embed {most} tokens (max_token_count) of id {last} (the last of vocabulary_size): {error}; "
                "export the package again"
            ) from error

    def encode(
        self,
        sequences: Sequence[TokenIds],
        *,
        token_budget: int = 512,
        executor: Executor | None = None,
        layer_count: int = 0,
    ) -> NDArray[np.float32]:
        """Vectors of any number of sequences: sorted into micro-batches, side by side if an executor is given.

        Returns:
            float32 [len(sequences), dimension_count], in the order of ``sequences``.
        """
        counts = [len(ids) for ids in sequences]
        batches = list(micro_batches(counts, length_of=self.attention_length, token_budget=token_budget))
        return run_all(
            lambda batch: self.run([sequences[i] for i in batch], layer_count),
            batches,
            self.manifest.dimension_count,
            executor,
        )
