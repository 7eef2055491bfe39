"""What the engine needs of a model: the one definition of that interface, met by ``whit.runtime`` and by test fakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from whit.contract.manifest import Manifest
from whit.server.engine.types import TokenIds

if TYPE_CHECKING:
    from whit.runtime.verify import Verification  # at run time it would bring onnxruntime along


class Package(Protocol):
    """A package directory, opened and checked."""

    @property
    def directory(self) -> Path:
        """Where it lies."""

    @property
    def manifest(self) -> Manifest:
        """Its content, described."""


class Tokenizer(Protocol):
    """Texts to token ids. Called from several threads at once."""

    def encode_each(self, texts: Sequence[str], check: Callable[[], None]) -> Iterator[TokenIds]:
        """Token ids, int64 [tokens] of one text after another: special tokens included, never cut. The prompt is in the text.

        ``check`` is called every now and then; raises to have no more read.
        """

    def cut(self, ids: TokenIds, max_token_count: int) -> TokenIds:
        """The first ``max_token_count`` ids, with the special tokens kept at both ends."""


class Encoder(Protocol):
    """Token ids to vectors. Synchronous; ``run`` is called from several threads at once."""

    @property
    def provider(self) -> str:
        """The execution provider in use."""

    @property
    def unmasked_length(self) -> int:
        """The attention length that may not share a micro-batch with others; 0: none."""

    @property
    def most_cores(self) -> int:
        """How many cores can compute one micro-batch together; 1: each takes one of its own."""

    def attention_length(self, token_count: int) -> int:
        """The padded length at which a text of ``token_count`` tokens is computed: a function of the text alone."""

    def run(self, sequences: Sequence[TokenIds], layer_count: int = 0, core_count: int = 1) -> NDArray[np.float32]:
        """One micro-batch; float32 [len(sequences), dimension_count]. ``layer_count`` 0: with all layers.

        ``core_count`` cores compute it, ``most_cores`` at most; the vectors are the same.
        """


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A package that is ready to run, and needs its directory no more.

    Attributes:
        id: the package's name.
        size_bytes: of its files at load.
        verified: its golden vectors were recomputed on this machine at load and agreed.
        is_instant: a short text takes it less time than the trip to a worker thread and back.
        mixes_lengths: texts of several attention lengths may share a micro-batch without a bit of a vector changing.
        verify: recomputes them now. Synchronous, and as long as a few dozen texts take.
    """

    id: str
    package: Package
    tokenizer: Tokenizer
    encoder: Encoder
    size_bytes: int
    verified: bool
    verify: Callable[[], Verification]
    is_instant: bool = False
    mixes_lengths: bool = False

    def mixes(self, attention_length: int) -> bool:
        """Whether texts of this attention length may be run beside longer or shorter ones."""
        return self.mixes_lengths and attention_length != self.encoder.unmasked_length

    @property
    def manifest(self) -> Manifest:
        """The package's manifest."""
        return self.package.manifest

    @property
    def fingerprint(self) -> str:
        """Content hash over everything in the package that changes a vector."""
        return self.package.manifest.fingerprint
