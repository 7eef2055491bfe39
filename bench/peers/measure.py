"""The measurement itself: quality and warm-up first, then rounds in which every contender has its turn."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import collection, stsb
from bench.peers.process import Worker
from whit.export.evaluate import FloatMatrix, Retrieval, Sts, ndcg_at_10, sts_score


@dataclass(frozen=True, slots=True)
class Texts:
    """What every contender embeds. The sets are by name; ``single`` are texts for one call each."""

    sets: Mapping[str, Sequence[str]]
    single: Sequence[str]
    sts: Sts
    retrieval: Retrieval | None = None


def read_texts(scale: float, sts_split: str) -> Texts:
    """STS-B dev sentences; the long Cranfield abstracts, most over 256 tokens; 70 sentences to 30 abstracts, shuffled.

    ``scale`` multiplies their numbers; below 1 it also cuts the STS-B pairs of ``sts_split``, which makes the quality a rough one,
    and leaves Cranfield out.
    """
    short, abstracts, mixed, single = (round(scale * count) for count in (600, 48, 150, 50))
    sts = stsb("dev")
    sentences = [*sts.first, *sts.second]
    random.Random(0).shuffle(sentences)
    long = [text for text in collection("cranfield", "dev").documents if len(text) > 1200]
    random.Random(0).shuffle(long)
    part = round(0.7 * mixed)
    blend = [*sentences[-part:], *long[-(mixed - part) :]]
    random.Random(0).shuffle(blend)
    sets = {"short": sentences[:short], "abstracts": long[:abstracts], "mixed": blend}
    scored = stsb(sts_split)
    pairs = round(min(1.0, scale) * len(scored.first))
    scored = Sts(scored.first[:pairs], scored.second[:pairs], scored.scores[:pairs])
    retrieval = collection("cranfield", sts_split) if scale >= 1 else None
    return Texts(sets, sentences[short : short + single], scored, retrieval)


def measure_quality(worker: Worker, texts: Texts, scratch: Path) -> dict[str, Any]:
    """STS-B, and what a text's vector owes to the texts around it. Also warms the contender up.

    Returns:
        ``sts_b`` (Spearman x 100); ``cranfield`` (nDCG@10 x 100, None without the collection); ``vector_bytes``; ``batch_max_difference`` and ``batch_min_cosine`` of the mixed texts embedded together
        and each alone; ``vectors``, the mixed texts' own.
    """
    sts = texts.sts
    together = _vectors(worker, [*sts.first, *sts.second], scratch)
    mixed = _vectors(worker, texts.sets["mixed"], scratch)
    alone_count = min(50, len(mixed))
    worker.single(texts.sets["mixed"][:alone_count], scratch / "alone.npy")
    alone = np.load(scratch / "alone.npy")
    half = len(sts.first)
    return {
        "sts_b": sts_score(together[:half], together[half:], sts.scores),
        "cranfield": _cranfield(worker, texts.retrieval, scratch) if texts.retrieval else None,
        "vector_bytes": together.nbytes // len(together),
        "batch_max_difference": float(np.abs(mixed[:alone_count] - alone).max()),
        "batch_min_cosine": float(_cosines(mixed[:alone_count], alone).min()),
        "vectors": mixed,
    }


def measure_speed(workers: Sequence[Worker], texts: Texts, rounds: int) -> dict[str, dict[str, Any]]:
    """Samples by contender: texts/s and CPU ms a text of each set, ms of each single call, the busiest neighbour.

    Each round begins with another contender, so that none always follows the same one.
    """
    found: dict[str, dict[str, Any]] = {
        worker.contender.name: {
            "texts_per_s": {name: [] for name in texts.sets},
            "cpu_ms_per_text": {name: [] for name in texts.sets},
            "single_ms": [],
            "foreign_cores": [],
        }
        for worker in workers
    }
    for number in range(rounds):
        shift = number % len(workers)
        order = [*workers[shift:], *workers[:shift]]
        for name, given in texts.sets.items():
            for worker in order:
                reply, row = worker.embed(given), found[worker.contender.name]
                row["texts_per_s"][name].append(len(given) / reply["seconds"])
                row["cpu_ms_per_text"][name].append(1e3 * reply["cpu_seconds"] / len(given))
                row["foreign_cores"].append(reply["foreign_cores"])
        for worker in order:
            reply, row = worker.single(texts.single), found[worker.contender.name]
            row["single_ms"].append([1e3 * seconds for seconds in reply["seconds"]])
            row["foreign_cores"].append(reply["foreign_cores"])
            row["peak_bytes"] = reply["peak_bytes"]
        print(f"round {number + 1} of {rounds}", flush=True)
    return found


def ratios(samples: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, float]:
    """Texts/s against ``base`` by set: the median of the ratios within each round, which other load distorts least."""
    return {
        name: statistics.median(a / b for a, b in zip(rates, base["texts_per_s"][name], strict=True))
        for name, rates in samples["texts_per_s"].items()
    }


def summary(samples: Mapping[str, Any]) -> dict[str, Any]:
    """Medians over the rounds."""
    rates = samples["texts_per_s"]
    percentiles = [np.percentile(calls, (50, 95)) for calls in samples["single_ms"]]
    return {
        "texts_per_s": {name: statistics.median(rate) for name, rate in rates.items()},
        "spread": {name: (max(rate) - min(rate)) / 2 / statistics.median(rate) for name, rate in rates.items()},
        "cpu_ms_per_text": {name: statistics.median(cpu) for name, cpu in samples["cpu_ms_per_text"].items()},
        "single_p50_ms": float(np.median([p50 for p50, _ in percentiles])),
        "single_p95_ms": float(np.median([p95 for _, p95 in percentiles])),
        "single_p99_ms": float(np.percentile(np.concatenate(samples["single_ms"]), 99)),
        "peak_mb": sum(samples["peak_bytes"]) / 1e6,
        "foreign_cores": statistics.median(samples["foreign_cores"]),
        "foreign_cores_max": max(samples["foreign_cores"]),
    }


def compare(vectors: FloatMatrix, reference: FloatMatrix) -> dict[str, float]:
    """Mean and least cosine of the same texts' vectors by another contender."""
    cosines = _cosines(vectors, reference)
    return {"mean_cosine": float(cosines.mean()), "min_cosine": float(cosines.min())}


def _cranfield(worker: Worker, retrieval: Retrieval, scratch: Path) -> float:
    documents, queries = (_vectors(worker, texts, scratch) for texts in (retrieval.documents, retrieval.queries))
    return ndcg_at_10(documents, queries, retrieval.judgements)


def _vectors(worker: Worker, texts: Sequence[str], scratch: Path) -> FloatMatrix:
    worker.embed(texts, scratch / "vectors.npy")
    vectors: FloatMatrix = np.load(scratch / "vectors.npy")
    return vectors


def _cosines(a: FloatMatrix, b: FloatMatrix) -> np.ndarray[Any, np.dtype[np.float64]]:
    product = (a.astype(np.float64) * b).sum(axis=1)
    cosines: np.ndarray[Any, np.dtype[np.float64]] = product / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosines
