"""What compiling cost and gained, measured against the float32 package of the same checkpoint."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whit.contract.manifest import GRAPH_FILE, TOKENIZER_FILE, LinearScheme
from whit.export.cosines import row_cosines
from whit.export.parallel import core_count
from whit.runtime.opening import open_encoder
from whit.runtime.package import Package
from whit.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from whit.runtime.opening import AnyEncoder

_ROUNDS = 5
_TIMED_TEXTS = 30  # at least, if there are as many; in turns, a ratio needs no more


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
    loss: float  # points of rank agreement with float32, see ``rank_agreement``
    speed_ratio: float  # texts/s over the float32 package's, one thread, interleaved; 1.0 for a float32 package
    linears: Sequence[LinearScheme]
    sensitivities: Mapping[str, float]  # points that each layer loses alone; empty where that was not measured
    unused_options: Sequence[str] = ()  # given, but the codes are those that the checkpoint was trained with
    notes: Sequence[str] = ()  # what to know about the checkpoint, ``Checkpoint.notes``

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
    reference: Package,
    package: Package,
    texts: Sequence[str],
    wanted: NDArray[np.float32] | None,
    sensitivities: Mapping[str, float],
    progress: Callable[[str, int, int], None],
) -> Report:
    """Compares the vectors of ``texts`` with those ``wanted``, and the time with the float32 package's, in turns.

    ``wanted`` float32 [len(texts), d] are those of the float32 graph; None: the package is that graph.
    """
    tokenizer, limit = Tokenizer(package), package.manifest.max_token_count
    sequences = [tokenizer.cut(ids, limit) for ids in tokenizer.encode(texts)]
    cosines, ratio, loss = np.ones(len(texts), np.float32), 1.0, 0.0
    if wanted is not None:
        encoders = [open_encoder(reference), open_encoder(package)]
        with ThreadPoolExecutor(core_count()) as executor:
            vectors = encoders[1].encode(sequences, executor=executor)
        cosines = row_cosines(wanted, vectors)
        loss = 100 - rank_agreement(wanted, vectors)
        timed = sequences[:: max(1, len(sequences) // _TIMED_TEXTS)]
        ratios = []
        for done in range(_ROUNDS):
            seconds = [_time(encoder, timed) for encoder in encoders]
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
        loss=round(loss, 6),
        speed_ratio=ratio,
        linears=package.manifest.linears,
        sensitivities=sensitivities,
    )


def rank_agreement(reference: NDArray[np.float32], vectors: NDArray[np.float32]) -> float:
    """How far two models agree on which texts are alike: Spearman x 100 between their cosines over all pairs of texts.

    What a search or a similarity threshold depends on is this order, not the vectors; so models of different widths can
    be compared.

    Args:
        reference: float32 [n, d].
        vectors: float32 [n, any width].
    """
    first, second = _ranks_of_pairs(reference), _ranks_of_pairs(vectors)
    return float(100 * np.corrcoef(first, second)[0, 1])


def _ranks_of_pairs(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    exact = vectors.astype(np.float64)
    unit = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-12)
    cosines = (unit @ unit.T)[np.triu_indices(len(unit), k=1)]
    ranks: NDArray[np.int64] = cosines.argsort(kind="stable").argsort()
    return ranks


def _time(encoder: AnyEncoder, sequences: Sequence[Any]) -> float:
    start = time.perf_counter()
    encoder.encode(sequences)
    return time.perf_counter() - start


def _bytes(package: Package) -> int:
    return sum((package.directory / name).stat().st_size for name in (GRAPH_FILE, TOKENIZER_FILE))
