"""Recomputes a package's golden vectors on this machine and says how far off they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from whit.contract.manifest import GOLDEN_FILE, STATIC, Manifest, PackageError
from whit.runtime.package import Package

if TYPE_CHECKING:
    from whit.runtime.opening import AnyEncoder, AnyTokenizer

# Floating point differs a little between CPUs (other vector widths, other rounding). In an int8 graph such a difference
# now and then moves an activation to the next code, which moves a vector by about this much.
TOLERANCE = {"float32": 1e-5, "int8": 2e-2}
_USUAL_LINEARS = 24  # of six layers
# A table's rows are added without a graph's rounding in between.
STATIC_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of ``verify``. Differences are of single values of unit-length vectors.

    ``mixes_lengths``: on this machine a text has the same bits in a grid longer than its own attention length.
    """

    verified: bool
    text_count: int
    max_abs_difference: float
    min_cosine: float
    tolerance: float
    mixes_lengths: bool = False


Golden = tuple[list[str], NDArray[np.float32]]


def read_golden(package: Package) -> Golden:
    """The golden texts and their vectors, float32 [count, dimension_count].

    Raises:
        PackageError: ``golden.json`` has another form.
    """
    path = package.directory / GOLDEN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        texts = [str(entry["text"]) for entry in content["texts"]]
        vectors = np.array([entry["vector"] for entry in content["texts"]], np.float32)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PackageError(f"{path} cannot be read ({error}); copy the package again or export it again") from None
    if not texts or vectors.shape != (len(texts), package.manifest.dimension_count):
        raise PackageError(f"{path} holds {vectors.shape} values for {len(texts)} texts; export the package again")
    return texts, vectors


def tolerance_of(manifest: Manifest) -> float:
    """By how much a single value of a unit-length vector may differ on another machine."""
    if manifest.kind == STATIC:
        return STATIC_TOLERANCE
    # What one layer rounds differently the next ones pass on: twice as many layers, twice as far.
    return TOLERANCE[manifest.dtype] * max(1.0, len(manifest.linears) / _USUAL_LINEARS)


def verify(package: Package, tokenizer: AnyTokenizer, encoder: AnyEncoder) -> Verification:
    """Embeds the golden texts, each alone and all in one batch, and compares both with the package's vectors.

    Raises:
        PackageError: ``golden.json`` has another form, or graph or table fails on its texts: it belongs to another tokenizer.
    """
    return compare(read_golden(package), package, tokenizer, encoder)


def compare(expected: Golden, package: Package, tokenizer: AnyTokenizer, encoder: AnyEncoder) -> Verification:
    """As ``verify``, with what ``read_golden`` gave earlier: the package's files need not be there any more."""
    texts, golden = expected
    limit = package.manifest.max_token_count
    sequences = [tokenizer.cut(ids, limit) for ids in tokenizer.encode(texts)]
    masked = [i for i, ids in enumerate(sequences) if encoder.attention_length(len(ids)) != encoder.unmasked_length]
    try:
        alone = np.concatenate([encoder.run([ids]) for ids in sequences])
        together = encoder.encode(sequences)
        mixed = encoder.run([sequences[i] for i in masked])
    except Exception as error:  # onnxruntime's exception types are private
        path = package.directory / package.manifest.model_file
        raise PackageError(f"{path} cannot embed the golden texts ({error}); export the package again") from error
    difference = max(float(np.abs(found - golden).max()) for found in (alone, together))
    norms = np.linalg.norm(alone, axis=1) * np.linalg.norm(golden, axis=1)
    same = (alone == golden).all(axis=1)  # of texts without a direction: a table may know none of their words
    cosines = np.divide((alone * golden).sum(axis=1), norms, out=same.astype(np.float32), where=norms > 0)
    # Vectors of another length than 1 may differ by as much more.
    tolerance = tolerance_of(package.manifest) * max(1.0, float(np.linalg.norm(golden, axis=1).max()))
    # Written so that a NaN fails.
    verified = difference <= tolerance and bool(np.array_equal(alone, together))
    mixes_lengths = bool(np.array_equal(mixed, alone[masked]))
    return Verification(verified, len(texts), difference, float(cosines.min()), tolerance, mixes_lengths)
