"""A package as an evaluation sees it: texts in, vectors out, along the path that the server takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from whit.contract.vectors import truncate
from whit.export.errors import OptionError
from whit.export.evaluate.metrics import FloatMatrix
from whit.export.parallel import core_count
from whit.export.tokenless import encode_any
from whit.runtime import open_encoder, open_package, open_tokenizer
from whit.runtime.packing import TokenIds

Progress = Callable[[str, int, int], None]  # stage, done, total

# Put before queries and documents when a package has prompts for these roles; the server's Search and Upsert do the same.
QUERY = "query"
DOCUMENT = "document"

_CHUNK_TOKENS = 16_384  # between two steps of the progress bar


def silent(_stage: str, _done: int, _total: int) -> None:
    """Shows no progress."""


class Model:
    """A package, opened. Keeps the vectors it has made, so that sets and encodings over the same texts embed them once.

    Attributes:
        package: the package, checked.
        name: how the model is called in tables.
        layer_count: how many layers are computed; 0: all.
        cut_count: texts that were longer than the package reads, and were cut; the server does so with ``truncate``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str | None = None,
        layer_count: int = 0,
        threads: int | None = None,
        progress: Progress = silent,
    ) -> None:
        """Opens a package.

        Args:
            directory: the package folder.
            name: in tables; None: the folder's name.
            layer_count: compute only so many layers, one of the manifest's ``layer_counts``; 0: all.
            threads: how many micro-batches run side by side; None: one for each core.
            progress: told how many texts of a call are done.

        Raises:
            PackageError: it is damaged, or made for another machine.
            OptionError: it cannot be run with so many layers.
        """
        self.package = open_package(directory)
        self.name = name or folder_name(directory)
        self.layer_count = layer_count
        depths = self.package.manifest.layer_counts
        if layer_count and layer_count not in depths:
            offered = f"offers {', '.join(map(str, depths))}" if depths else "is run with all its layers only"
            raise OptionError(
                "layer_counts",
                f"cannot be {layer_count}: {directory} {offered}; export it with --depths to have a choice of depths",
            )
        self.cut_count = 0
        self._tokenizer, self._encoder = open_tokenizer(self.package), open_encoder(self.package)
        self._threads = threads or core_count()
        self._progress = progress
        self._known: dict[str, FloatMatrix] = {}

    @property
    def dimension_count(self) -> int:
        """Columns of its vectors."""
        return self.package.manifest.dimension_count

    def embed(self, texts: Sequence[str], *, role: str | None = None) -> FloatMatrix:
        """Vectors of length 1, float32 [len(texts), dimension_count], each computed once; 0 for a text without a token.

        Args:
            texts: any number, any length.
            role: ``QUERY`` or ``DOCUMENT`` puts the package's prompt for it, if it has one, before each text.
        """
        prompt = self.package.manifest.prompts.get(role, "") if role else ""
        wanted = [prompt + text for text in texts]
        missing = [text for text in dict.fromkeys(wanted) if text not in self._known]
        if missing:
            self._known.update(zip(missing, self._compute(missing), strict=True))
        if not wanted:
            return np.empty((0, self.dimension_count), np.float32)
        return np.stack([self._known[text] for text in wanted])

    def _compute(self, texts: Sequence[str]) -> FloatMatrix:
        limit = self.package.manifest.max_token_count
        full = self._tokenizer.encode(texts)
        sequences = [self._tokenizer.cut(ids, limit) for ids in full]
        self.cut_count += sum(len(ids) > limit for ids in full)
        # Longest first: what is left at the end is quick, and memory is at its peak at the start.
        order = sorted(range(len(texts)), key=lambda i: -len(sequences[i]))
        vectors = np.empty((len(texts), self.dimension_count), np.float32)
        stage = f"embedding with {self.name}"
        with ThreadPoolExecutor(self._threads) as threads:
            start = 0
            while start < len(order):
                end = start + max(1, _CHUNK_TOKENS // max(1, len(sequences[order[start]])))
                chunk = order[start:end]
                vectors[chunk] = self._encode([sequences[i] for i in chunk], threads)
                start += len(chunk)
                self._progress(stage, start, len(order))
        return truncate(vectors, self.dimension_count, normalize=not self.package.manifest.normalized)

    def cpu_and_wall_seconds(self, texts: Sequence[str]) -> tuple[float, float]:
        """CPU and wall-clock seconds that one thread takes to tokenise and embed ``texts``, from nothing."""
        limit = self.package.manifest.max_token_count
        cpu, wall = time.process_time(), time.perf_counter()
        self._encode([self._tokenizer.cut(ids, limit) for ids in self._tokenizer.encode(texts)])
        return time.process_time() - cpu, time.perf_counter() - wall

    def _encode(self, sequences: Sequence[TokenIds], executor: Executor | None = None) -> FloatMatrix:
        return encode_any(
            self._encoder, sequences, self.dimension_count, executor=executor, layer_count=self.layer_count
        )


def open_models(
    directories: Sequence[Path],
    *,
    layer_counts: Sequence[int] = (0,),
    threads: int | None = None,
    progress: Progress = silent,
) -> list[Model]:
    """Opens packages, named after their folders; where two would be called the same, all have their whole paths.

    Args:
        directories: the package folders.
        layer_counts: each package is a model for each of these, named after its number of layers, too; 0: all layers.
        threads: as for ``Model``.
        progress: as for ``Model``.

    Raises:
        PackageError: one is damaged, or made for another machine.
        OptionError: one cannot be run with so many layers.
    """
    names = [folder_name(directory) for directory in directories]
    if len(set(names)) < len(names):
        names = [str(directory) for directory in directories]
    return [
        Model(
            directory,
            name=f"{name} ({count} {'layer' if count == 1 else 'layers'})" if count else name,
            layer_count=count,
            threads=threads,
            progress=progress,
        )
        for directory, name in zip(directories, names, strict=True)
        for count in layer_counts
    ]


def folder_name(directory: Path) -> str:
    """The name of a folder, of ``.`` too; a link's own name."""
    return Path(os.path.abspath(directory)).name  # noqa: PTH100 - resolve() would follow links
