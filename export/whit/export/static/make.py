"""From a teacher to a static package: the whole way, top to bottom."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from whit.contract.manifest import KINDS, STATIC, TABLE_FILE, TOKENIZER_FILE, Manifest
from whit.export.checkpoint import CheckpointError, FloatArray
from whit.export.cosines import unit_rows
from whit.export.distill.options import cache_folder
from whit.export.distill.projection import principal_directions, project
from whit.export.distill.teacher import PackageTeacher, TeacherVectors, open_teacher
from whit.export.sealing import check_name, check_out, file_hashes, name_from, publish, scratch_beside, seal
from whit.export.static.fit import FitOptions, bags, fit, steady
from whit.export.static.table import check_storage, random_turn, write_table
from whit.export.static.tokens import Tokens, choose_tokens, token_vectors
from whit.export.texts import read_texts
from whit.runtime.package import Package, open_package
from whit.runtime.packing import TokenIds
from whit.runtime.static import StaticEncoder

Progress = Callable[[str, int, int], None]

_HELD_OUT = 0.02  # share of the texts that nothing is fitted to; the report is about them
_START_LENGTH = 0.1  # mean length of a row at the start; learning rates are chosen for it
_LICENSES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")


@dataclass(frozen=True, slots=True)
class StaticOptions:
    """What may be chosen about a static student. The first group is recorded in its manifest."""

    texts: tuple[Path, ...]  # UTF-8 files, one text a line, plain or .gz
    text_count: int = 200_000  # at most so many, a random choice
    dimension_count: int = 256
    dtype: str = "int8"
    code_count: int = 32  # pq: codes a row
    vocabulary_size: int | None = None  # None: every token that some text can produce
    word_count: int = 0  # words that the teacher reads in pieces and that become tokens
    max_token_count: int = 512
    smoothing: float = 1e-3  # start: a row is weighted by a / (a + p) (SIF: Arora et al., ICLR 2017); p by rank
    epochs: int = 8
    learning_rate: float = 5e-3
    similarity_weight: float = 0.0
    teacher_token_count: int = 160  # the teacher reads no more of a text
    seed: int = 0

    name: str | None = None  # default: the teacher's name and "-static"
    cache: Path | None = None  # where the teacher's vectors are kept; default: as in whit distill
    threads: int = 1


@dataclass(frozen=True, slots=True)
class StaticReport:
    """What became of it. Agreement is measured on texts that were held out."""

    name: str
    fingerprint: str
    dtype: str
    table_bytes: int
    tokenizer_bytes: int
    token_count: int
    seen_token_count: int  # tokens that occur in the texts; the others follow from their start
    text_count: int
    held_out_count: int
    start_cosine: float  # mean cosine to the teacher's vectors, before fitting
    cosine: float  # after it, of the stored table
    similarity_correlation: float  # Pearson's, of the similarities of pairs of texts, with the teacher's

    def lasting(self) -> dict[str, Any]:
        """What goes into ``report.json``: all but the package's own hash."""
        content = asdict(self)
        del content["fingerprint"]
        return content


def make_static(source: Path, out: Path, options: StaticOptions, progress: Progress = lambda *_: None) -> StaticReport:
    """Makes a static package at ``out``, which appears whole or not at all.

    Args:
        source: the teacher: a package, or a checkpoint folder, which is compiled first.
        out: the package to be.
        options: what may be chosen.
        progress: is told a stage, how much of it is done, and how much it has.

    Raises:
        CheckpointError: teacher, texts or an option cannot be used, or ``out`` exists and is no package. Says what to do.
        PackageError: the teacher is a package and damaged.
    """
    _check(options)
    check_out(out)
    with scratch_beside(out) as scratch:
        cache = cache_folder(options.cache)
        teacher = open_teacher(source, cache, "float32", progress)
        texts = _read(options)
        tokens = choose_tokens(teacher, texts, options.vocabulary_size, options.word_count)
        said = token_vectors(teacher, tokens, lambda done: progress("teacher (tokens)", done, len(tokens)))
        vectors = TeacherVectors(
            PackageTeacher(teacher, options.threads), texts, cache, max_token_count=options.teacher_token_count
        )
        wanted = vectors.rows(np.arange(len(texts)), lambda done: progress("teacher (texts)", done, len(texts)))

        if options.dimension_count > wanted.shape[1]:
            raise CheckpointError(
                f"dimension_count must be at most {wanted.shape[1]}, the teacher's; got {options.dimension_count}"
            )
        directions = principal_directions(wanted, options.dimension_count)  # of sentences, not of tokens
        if options.dtype == "pq":
            directions = directions @ random_turn(options.dimension_count, options.seed)
        targets = unit_rows(project(wanted, directions))
        sequences = tokens.encode(texts, options.max_token_count)
        table, start, counts = _learn(sequences, targets, said @ directions, tokens, options, progress)

        new = scratch / "package"
        package = _write(new, teacher, tokens, table, counts, options, len(texts))
        held = _held_out(len(texts))
        report = _report(package, tokens, counts, sequences, targets, start, held)
        seal(package, report.lasting())
        report = replace(report, fingerprint=open_package(new).manifest.fingerprint)
        publish(new, out)
    return report


def _check(options: StaticOptions) -> None:
    import scipy.sparse  # noqa: F401  (where it is missing, that is said before the teacher's work and not after)

    check_storage(options.dtype, options.dimension_count, options.code_count)
    if options.name is not None:
        check_name(options.name)
    for name in ("text_count", "dimension_count", "max_token_count", "epochs", "teacher_token_count", "threads"):
        if getattr(options, name) < 1:
            raise CheckpointError(f"{name} must be at least 1, got {getattr(options, name)}")
    for name in ("smoothing", "learning_rate"):
        if not 0 < getattr(options, name) < 1:
            raise CheckpointError(f"{name} must be between 0 and 1, got {getattr(options, name)}")


def _read(options: StaticOptions) -> list[str]:
    """Distinct texts of all files, in an order of their own."""
    texts = list(dict.fromkeys(text for path in options.texts for text in read_texts(path, least=100)))
    order = np.random.default_rng(options.seed).permutation(len(texts))[: options.text_count]
    return [texts[i] for i in order]


def _held_out(count: int) -> TokenIds:
    return np.arange(count - max(2, int(count * _HELD_OUT)), count)


def _learn(
    sequences: Sequence[TokenIds],
    targets: FloatArray,
    said: FloatArray,
    tokens: Tokens,
    options: StaticOptions,
    progress: Progress,
) -> tuple[FloatArray, FloatArray, TokenIds]:
    """The table, what it was at the start, and how often each token occurs."""
    held = _held_out(len(sequences))
    used = [i for i in range(held[0]) if len(sequences[i])]
    counts = np.bincount(np.concatenate([sequences[i] for i in used]), minlength=len(tokens))
    ranks = np.empty(len(counts))
    ranks[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
    chance = 1 / ranks / (1 / ranks).sum()  # Zipf's law: smoother than counts
    start = said * (options.smoothing / (options.smoothing + chance))[:, None]
    start = np.asarray(start * (_START_LENGTH / np.linalg.norm(start, axis=1).mean()), np.float32)
    table = fit(
        bags([sequences[i] for i in used], len(tokens)),
        targets[used],
        start,
        FitOptions(
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            similarity_weight=options.similarity_weight,
            seed=options.seed,
        ),
        lambda step, total, cosine: progress("fit (steps)", step, total),
    )
    return steady(table, start, counts), start, counts


def _write(
    folder: Path,
    teacher: Package,
    tokens: Tokens,
    table: FloatArray,
    counts: TokenIds,
    options: StaticOptions,
    text_count: int,
) -> Package:
    folder.mkdir()
    # A token in no text still is in some other: every row counts for something.
    write_table(folder, table, options.dtype, options.code_count, np.sqrt(counts + 1.0), options.seed)
    (folder / TOKENIZER_FILE).write_text(tokens.tokenizer.to_str(pretty=False), encoding="utf-8")
    for pattern in _LICENSES:
        for path in sorted(teacher.directory.glob(pattern)):
            shutil.copy(path, folder / path.name)
    chosen = asdict(options)
    for name in ("texts", "name", "cache", "threads"):
        del chosen[name]
    manifest = Manifest(
        name=options.name or name_from(f"{teacher.manifest.name}-static"),
        architecture="static",
        dimension_count=options.dimension_count,
        max_token_count=options.max_token_count,
        vocabulary_size=len(tokens),
        pooling="mean",
        dtype=options.dtype,
        files=file_hashes(folder),
        # Columns are in the order of what they hold; a random turn makes them alike.
        matryoshka_dimension_counts=() if options.dtype == "pq" else _halves(options.dimension_count),
        provenance={
            "whit_version": metadata.version("whit"),
            "teacher": teacher.manifest.name,
            "teacher_fingerprint": teacher.manifest.fingerprint,
            "license": teacher.manifest.provenance.get("license", "unknown"),
            "options": chosen,
            "text_count": text_count,
        },
        kind=STATIC,
        format_version=KINDS[STATIC].format_version,
    )
    return Package(folder, manifest)


def _halves(count: int) -> tuple[int, ...]:
    """Lengths to which a vector can be cut and still be of use: a quarter and a half, of 32 values or more."""
    return tuple(size for size in (count // 4, count // 2) if size >= 32)


def _report(
    package: Package,
    tokens: Tokens,
    counts: TokenIds,
    sequences: Sequence[TokenIds],
    targets: FloatArray,
    start: FloatArray,
    held: TokenIds,
) -> StaticReport:
    some = np.array([i for i in held if len(sequences[i])])
    texts = [sequences[i] for i in some]
    before = unit_rows(bags(texts, len(tokens)) @ start)
    after = StaticEncoder(package).run(texts)
    found, wanted = (vectors[:1000] @ vectors[:1000].T for vectors in (after, targets[some]))
    pairs = np.triu_indices(len(found), 1)
    correlation = np.corrcoef(found[pairs], wanted[pairs])[0, 1] if len(pairs[0]) > 1 else 1.0
    return StaticReport(
        name=package.manifest.name,
        fingerprint="",
        dtype=package.manifest.dtype,
        table_bytes=(package.directory / TABLE_FILE).stat().st_size,
        tokenizer_bytes=(package.directory / TOKENIZER_FILE).stat().st_size,
        token_count=len(tokens),
        seen_token_count=int((counts > 0).sum()),
        text_count=len(sequences),
        held_out_count=len(some),
        start_cosine=round(float((before * targets[some]).sum(axis=1).mean()), 6),
        cosine=round(float((after * targets[some]).sum(axis=1).mean()), 6),
        similarity_correlation=round(float(correlation), 6),
    )
