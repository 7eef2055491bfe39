"""What compiling cost and gained, measured against the float32 package of the same checkpoint."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from whit.contract.manifest import GRAPH_FILE, TOKENIZER_FILE, LinearScheme
from whit.runtime.encoder import Encoder
from whit.runtime.package import Package
from whit.runtime.tokenizer import Tokenizer

_ROUNDS = 3
_TIMED_EVERY = 3  # of the calibration texts, every third is enough for a ratio


@dataclass(frozen=True, slots=True)
class Report:
    """Outcome of an export. Cosines are between this package's vectors and the float32 graph's, on the calibration text."""

    name: str
    fingerprint: str
    dtype: str
    graph_bytes: int
    float_graph_bytes: int
    text_count: int
    mean_cosine: float
    min_cosine: float
    speed_ratio: float  # texts/s over the float32 package's, one thread, interleaved; 1.0 for a float32 package
    linears: Sequence[LinearScheme]

    @property
    def schemes(self) -> dict[str, int]:
        """How many linear layers use each scheme."""
        return dict(Counter(linear.scheme for linear in self.linears))

    def lasting(self) -> dict[str, Any]:
        """What goes into ``report.json``: everything that does not depend on the clock or on the package's own hash."""
        content = asdict(self) | {"schemes": self.schemes}
        del content["speed_ratio"], content["fingerprint"]
        return content


def measure(
    reference: Package, package: Package, texts: Sequence[str], progress: Callable[[str, int, int], None]
) -> Report:
    """Embeds ``texts`` with both packages, in turns, and compares vectors and time."""
    tokenizer, limit = Tokenizer(package), package.manifest.max_token_count
    sequences = [tokenizer.cut(ids, limit) for ids in tokenizer.encode(texts)]
    cosines, ratio = np.ones(len(texts)), 1.0
    if package is not reference:
        encoders = [Encoder(reference), Encoder(package)]
        vectors = [encoder.encode(sequences) for encoder in encoders]
        norms = [np.maximum(np.linalg.norm(v, axis=1), 1e-12) for v in vectors]
        cosines = (vectors[0] * vectors[1]).sum(axis=1) / (norms[0] * norms[1])
        ratios = []
        for done in range(_ROUNDS):
            seconds = [_time(encoder, sequences[::_TIMED_EVERY]) for encoder in encoders]
            ratios.append(seconds[0] / seconds[1])
            progress("measure (rounds)", done + 1, _ROUNDS)
        ratio = statistics.median(ratios)
    return Report(
        name=package.manifest.name,
        fingerprint=package.manifest.fingerprint,
        dtype=package.manifest.dtype,
        graph_bytes=_bytes(package),
        float_graph_bytes=_bytes(reference),
        text_count=len(texts),
        mean_cosine=round(float(cosines.mean()), 7),
        min_cosine=round(float(cosines.min()), 7),
        speed_ratio=ratio,
        linears=package.manifest.linears,
    )


def _time(encoder: Encoder, sequences: Sequence[Any]) -> float:
    start = time.perf_counter()
    encoder.encode(sequences)
    return time.perf_counter() - start


def _bytes(package: Package) -> int:
    return sum((package.directory / name).stat().st_size for name in (GRAPH_FILE, TOKENIZER_FILE))
