"""The C library (``encoder.c``), compiled once for each set of instructions, and the call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from ctypes import POINTER, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from whit.runtime.native.layout import Layout
from whit.runtime.native.parts import OutdatedError, Program, UnsupportedError
from whit.runtime.native.structures import CLayer, CModel

# Part of encoder.c, in its order.
MOST_CORES = 8  # of one call: MOST_MEMBERS in team.h
PARTS = ("embed", "qkv", "attention", "out", "up", "down", "norm", "pool")


@dataclass(frozen=True, slots=True)
class Kernels:
    """The C code for one kind of processor."""

    name: str
    needs: AbstractSet[str]  # of ``instruction_sets``

    @property
    def path(self) -> Path:
        """Where an install puts the library."""
        return Path(__file__).with_name(f"kernels-{self.name}.so")


# The fastest first; ``server/build_kernels.py`` compiles those of the machine's architecture.
KERNELS = (
    Kernels("avx512-vnni", {"avx512", "avx512-vnni"}),
    Kernels("avx-vnni", {"avx2", "avx-vnni"}),
    Kernels("avx2", {"avx2"}),
    Kernels("arm-dotprod", {"arm-dotprod"}),
)


def kernels_for(instructions: AbstractSet[str]) -> Kernels:
    """The fastest kernels for a processor with these instruction sets.

    Raises:
        UnsupportedError: there are none.
    """
    for kernels in KERNELS:
        if kernels.needs <= instructions:
            return kernels
    raise UnsupportedError("this CPU has neither AVX2 nor Arm's dot product")


@dataclass(frozen=True, slots=True)
class Library:
    """Compiled kernels, loaded."""

    functions: ctypes.CDLL
    code_offset: int  # what u8 codes are stored less of: 128 where the processor multiplies signed bytes only
    is_saturating: bool  # whether the processor adds products of bytes in pairs, in 16 bits

    def couple(self, sums: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Couples of groups whose pairs of products can be added in 16 bits (``whit_couple``).

        Args:
            sums: uint8 [halves, groups, 64].

        Returns:
            Order of the groups, couples first, int32 [halves, groups]; and how many couples, int32 [halves].
        """
        sums = np.ascontiguousarray(sums)
        halves, groups = sums.shape[:2]
        order, counts = np.empty((halves, groups), np.int32), np.empty(halves, np.int32)
        self.functions.whit_couple(sums.ctypes.data, halves, groups, order.ctypes.data, counts.ctypes.data)
        return order, counts


def load_library(path: Path) -> Library:
    """The compiled kernels.

    Raises:
        UnsupportedError: they are not there, or this system cannot load them.
        OutdatedError: they belong to another version of whit.
    """
    version = (c_int64 * 5)()
    try:
        library = ctypes.CDLL(str(path))
        library.whit_version(version)
    except OSError as error:
        raise UnsupportedError(f"they are not compiled for this system ({error})") from None
    except AttributeError:
        pass
    *sizes, sources, code_offset, is_saturating = version
    # Equal sizes may hold other things. No checksum: whoever compiles by hand knows.
    if sizes != [ctypes.sizeof(CModel), ctypes.sizeof(CLayer)] or sources not in (0, checksum_of_sources()):
        raise OutdatedError(
            f"{path.name} is compiled from another version of whit; install whit again (in a clone: make .venv/.demo)"
        )
    library.whit_scratch_size.argtypes = (POINTER(CModel), c_int64, c_int64)
    library.whit_scratch_size.restype = c_int64
    library.whit_encode.argtypes = (
        *(POINTER(CModel), c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_void_p, c_void_p, c_void_p),
    )
    library.whit_encode.restype = None
    library.whit_couple.argtypes = (c_void_p, c_int64, c_int64, c_void_p, c_void_p)
    library.whit_couple.restype = None
    return Library(library, code_offset, bool(is_saturating))


def checksum_of_sources() -> int:
    """Of the C code that lies beside this file, as ``server/build_kernels.py`` gives it to the compiler."""
    return crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.[ch]"))))


class Model:
    """A program in memory."""

    def __init__(self, library: Library, program: Program, *, position_offset: int) -> None:
        self._functions = library.functions
        self._layout = Layout(
            program,
            position_offset=position_offset,
            code_offset=library.code_offset,
            couple=library.couple if library.is_saturating else None,
        )
        self._word_count = program.words.token_count
        self._position_count = program.positions.token_count - position_offset
        # Pooling by a head reads what only its layer writes.
        self._least_layers = 1 if program.weighing is None else program.weighing[0] + 1

    def scratch_size(self, longest: int, core_count: int = 1) -> int:
        """Bytes of working memory for texts of up to ``longest`` tokens; for longer ones than ``encode`` takes, no more."""
        longest = min(longest, self._position_count)
        return int(self._functions.whit_scratch_size(self._layout.model, longest, core_count))

    def encode(
        self,
        ids: NDArray[np.int64],
        lengths: Sequence[int],
        layer_count: int,
        scratch: NDArray[np.uint8],
        ticks: NDArray[np.int64] | None = None,
        core_count: int = 1,
    ) -> NDArray[np.float32]:
        """Vectors float32 [len(lengths), dimensions] of texts whose tokens lie back to back in ``ids``.

        Args:
            ids: int64 [sum of lengths].
            lengths: their token counts.
            layer_count: how many layers to compute; 0: all.
            scratch: at least ``scratch_size(max(lengths), core_count)`` bytes, aligned to 64.
            ticks: int64 [len(PARTS)], to which the time that each part takes is added, in ticks of the processor's clock.
            core_count: threads that compute together, 1 to ``MOST_CORES``; the vectors are the same.

        Raises:
            ValueError: a token beyond the vocabulary, a text without a token or of more than there are positions, a layer
                count beyond the model's or before the layer that pooling reads; a core count out of range.
        """
        # The C code looks nothing up twice: what it must not meet is refused here.
        shortest, longest = min(lengths), max(lengths)
        if shortest < 1 or longest > self._position_count:
            raise ValueError(f"texts must have 1 to {self._position_count} tokens, got {shortest} to {longest}")
        least, most = int(ids.min()), int(ids.max())
        if least < 0 or most >= self._word_count:
            raise ValueError(f"token ids must be from 0 to {self._word_count - 1}, got {least} to {most}")
        all_layers = self._layout.model.layer_count
        if layer_count and not self._least_layers <= layer_count <= all_layers:
            raise ValueError(f"layer_count must be 0 or from {self._least_layers} to {all_layers}, got {layer_count}")
        if not 1 <= core_count <= MOST_CORES:
            raise ValueError(f"core_count must be 1 to {MOST_CORES}, got {core_count}")
        codes, counts = ids.astype(np.int32), np.array(lengths, np.int64)
        vectors = np.empty((len(lengths), self._layout.model.dimension_count), np.float32)
        self._functions.whit_encode(
            *(self._layout.model, codes.ctypes.data, counts.ctypes.data, len(lengths), longest),
            *(
                layer_count or all_layers,
                core_count,
                scratch.ctypes.data,
                vectors.ctypes.data,
                None if ticks is None else ticks.ctypes.data,
            ),
        )
        return vectors
