"""The C library (``encoder.c``) and the call."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int64, c_void_p
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from whit.runtime.native.layout import Layout
from whit.runtime.native.parts import Program, UnsupportedError
from whit.runtime.native.structures import CLayer, CModel

# Part of encoder.c, in its order.
PARTS = ("embed", "qkv", "attention", "out", "up", "down", "norm", "pool")


def load_library(path: Path) -> ctypes.CDLL:
    """The compiled kernels.

    Raises:
        UnsupportedError: they are not there, this system cannot load them, or they belong to another version of whit.
    """
    version = (c_int64 * 3)()
    try:
        library = ctypes.CDLL(str(path))
        library.whit_version(version)
    except OSError as error:
        raise UnsupportedError(f"they are not compiled for this system ({error})") from None
    except AttributeError:
        pass
    *sizes, sources = version
    # Equal sizes may hold other things. No checksum: whoever compiles by hand knows.
    if sizes != [ctypes.sizeof(CModel), ctypes.sizeof(CLayer)] or sources not in (0, checksum_of_sources()):
        raise UnsupportedError(f"{path.name} is compiled from another version of whit; install whit again")
    library.whit_scratch_size.argtypes = (POINTER(CModel), c_int64)
    library.whit_scratch_size.restype = c_int64
    library.whit_encode.argtypes = (
        *(POINTER(CModel), c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_void_p, c_void_p),
    )
    library.whit_encode.restype = None
    return library


def checksum_of_sources() -> int:
    """Of the C code that lies beside this file, as ``server/build_kernels.py`` gives it to the compiler."""
    return crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.[ch]"))))


class Model:
    """A program in memory."""

    def __init__(self, library: ctypes.CDLL, program: Program, *, position_offset: int) -> None:
        self._library = library
        self._layout = Layout(program, position_offset=position_offset)
        self._word_count = program.words.token_count
        self._position_count = program.positions.token_count - position_offset
        # Pooling by a head reads what only its layer writes.
        self._least_layers = 1 if program.weighing is None else program.weighing[0] + 1

    def scratch_size(self, longest: int) -> int:
        """Bytes of working memory for texts of up to ``longest`` tokens; for longer ones than ``encode`` takes, no more."""
        return int(self._library.whit_scratch_size(self._layout.model, min(longest, self._position_count)))

    def encode(
        self,
        ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
        layer_count: int,
        scratch: NDArray[np.uint8],
        ticks: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """Vectors float32 [len(lengths), dimensions] of texts whose tokens lie back to back in ``ids``.

        Args:
            ids: int64 [sum of lengths].
            lengths: int64 [texts].
            layer_count: how many layers to compute; 0: all.
            scratch: at least ``scratch_size(lengths.max())`` bytes, aligned to 64.
            ticks: int64 [len(PARTS)], to which the time that each part takes is added, in ticks of the processor's clock.

        Raises:
            ValueError: a token beyond the vocabulary, a text without a token or of more than there are positions, a layer
                count beyond the model's or before the layer that pooling reads.
        """
        # The C code looks nothing up twice: what it must not meet is refused here.
        if lengths.min() < 1 or lengths.max() > self._position_count:
            raise ValueError(
                f"texts must have 1 to {self._position_count} tokens, got {lengths.min()} to {lengths.max()}"
            )
        if ids.min() < 0 or ids.max() >= self._word_count:
            raise ValueError(f"token ids must be from 0 to {self._word_count - 1}, got {ids.min()} to {ids.max()}")
        most = self._layout.model.layer_count
        if layer_count and not self._least_layers <= layer_count <= most:
            raise ValueError(f"layer_count must be 0 or from {self._least_layers} to {most}, got {layer_count}")
        codes, vectors = ids.astype(np.int32), np.empty((len(lengths), self._layout.model.dimension_count), np.float32)
        self._library.whit_encode(
            *(self._layout.model, codes.ctypes.data, lengths.ctypes.data, len(lengths), int(lengths.max())),
            *(
                layer_count or most,
                scratch.ctypes.data,
                vectors.ctypes.data,
                None if ticks is None else ticks.ctypes.data,
            ),
        )
        return vectors
