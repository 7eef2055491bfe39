"""The encoder that runs a package in whit's own kernels."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whit.contract.manifest import GRAPH_FILE, Manifest, PackageError
from whit.runtime.claims import check_claims, sizes_of
from whit.runtime.machine import instruction_sets
from whit.runtime.native.library import MOST_CORES, PARTS, Model, kernels_for, load_library
from whit.runtime.native.memory import aligned_memory
from whit.runtime.native.onnx_file import read_graph
from whit.runtime.native.parts import UnsupportedError
from whit.runtime.native.program import read_program
from whit.runtime.package import Package
from whit.runtime.packing import TokenIds, micro_batches, run_all

# Lengths that count as one for the scheduler's costs and queues; the kernels themselves have no padding. Not too short: what a call
# has of one length is run beside what others have of it, and under overload a call must not be begun here and there and end nowhere.
_BUCKET = 64


class Network:
    """One graph in memory. ``run`` may be called from several threads at once; the GIL is free while it computes.

    Args:
        graph: an ONNX file, or the bytes of one.
        position_offset: position id of a text's first token.

    Attributes:
        kernels: the name of those that this CPU gets.
        sizes: what the graph has.

    Raises:
        UnsupportedError: this CPU lacks what the kernels need, or the graph has what they lack.
        OSError, ValueError: the graph cannot be read.
    """

    def __init__(self, graph: Path | bytes, *, position_offset: int) -> None:
        kernels = kernels_for(instruction_sets())
        self.kernels = kernels.name
        read = read_graph(graph)
        program = read_program(read)
        self.sizes = sizes_of(read)
        self._model = Model(load_library(kernels.path), program, position_offset=position_offset)
        self._threads = threading.local()

    def run(self, sequences: Sequence[TokenIds], layer_count: int = 0, core_count: int = 1) -> NDArray[np.float32]:
        """Vectors float32 [len(sequences), dimensions]; ``layer_count`` 0: through all layers.

        Raises:
            ValueError: a token beyond the vocabulary; no token or too many.
        """
        return self._run(sequences, layer_count, None, core_count)

    def profile(self, sequences: Sequence[TokenIds]) -> dict[str, float]:
        """Shares of the time that parts of the model take in one micro-batch; they add up to 1."""
        ticks = np.zeros(len(PARTS), np.int64)
        self._run(sequences, 0, ticks)
        return dict(zip(PARTS, (ticks / ticks.sum()).tolist(), strict=True))

    def _run(
        self, sequences: Sequence[TokenIds], layer_count: int, ticks: NDArray[np.int64] | None, core_count: int = 1
    ) -> NDArray[np.float32]:
        lengths = [len(ids) for ids in sequences]
        scratch = self._scratch(self._model.scratch_size(max(lengths), core_count))
        return self._model.encode(np.concatenate(sequences), lengths, layer_count, scratch, ticks, core_count)

    def _scratch(self, size: int) -> NDArray[np.uint8]:
        """This thread's working memory, kept from call to call."""
        kept: NDArray[np.uint8] | None = getattr(self._threads, "scratch", None)
        if kept is None or len(kept) < size:
            self._threads.scratch = kept = aligned_memory(size)
        return kept


class NativeEncoder:
    """One package in whit's own kernels. ``run`` may be called from several threads at once.

    Texts of any lengths share a micro-batch: nothing is padded, and a row depends on its own sequence only, to the last bit.

    Raises:
        UnsupportedError: this CPU lacks what the kernels need, or the package has what they lack.
        PackageError: its graph cannot be read, or has less than the manifest says.
    """

    unmasked_length = 0
    most_cores = MOST_CORES

    def __init__(self, package: Package) -> None:
        self.manifest: Manifest = package.manifest
        if self.manifest.dtype != "int8":
            raise UnsupportedError(f"its dtype is {self.manifest.dtype}")
        path = package.directory / GRAPH_FILE
        try:
            self._network = Network(path, position_offset=self.manifest.position_offset)
        except (OSError, ValueError) as error:
            raise PackageError(f"{path} cannot be read ({error}); export the package again") from None
        check_claims(package, self._network.sizes)
        self.provider = f"native-{self._network.kernels}"

    def attention_length(self, token_count: int) -> int:
        """``token_count`` rounded up: a function of the text alone."""
        return -(-token_count // _BUCKET) * _BUCKET

    def run(self, sequences: Sequence[TokenIds], layer_count: int = 0, core_count: int = 1) -> NDArray[np.float32]:
        """Vectors of one micro-batch.

        Args:
            sequences: int64 [token count] each, 1 to ``manifest.max_token_count`` tokens within the vocabulary.
            layer_count: compute only so many layers, one of ``manifest.layer_counts``; 0: all.
            core_count: threads that compute it together, ``most_cores`` at most, with the same bits: a lone text is done sooner
                where other cores idle. Together they take longer than one would, so many texts are better run side by side.

        Returns:
            float32 [len(sequences), dimension_count].

        Raises:
            ValueError: a token beyond the vocabulary; no token or too many; a layer count that the package does not have.
        """
        depths = self.manifest.layer_counts
        if layer_count and layer_count not in depths:
            raise ValueError(f"layer_count must be 0 or one of {list(depths)}, got {layer_count}")
        return self._network.run(sequences, layer_count, core_count)

    def encode(
        self,
        sequences: Sequence[TokenIds],
        *,
        token_budget: int = 512,
        executor: Executor | None = None,
        layer_count: int = 0,
    ) -> NDArray[np.float32]:
        """Vectors of any number of sequences: in micro-batches, side by side if an executor is given.

        Returns:
            float32 [len(sequences), dimension_count], in the order of ``sequences``.
        """
        counts = [len(ids) for ids in sequences]
        batches = list(micro_batches(counts, length_of=lambda _: 0, token_budget=token_budget))
        return run_all(
            lambda batch: self.run([sequences[i] for i in batch], layer_count),
            batches,
            self.manifest.dimension_count,
            executor,
        )

    def profile(self, sequences: Sequence[TokenIds]) -> dict[str, float]:
        """See ``Network.profile``."""
        return self._network.profile(sequences)
