"""From a teacher to a static package: the whole way, top to bottom."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from whit.contract.manifest import (
    KINDS,
    LONGEST_NGRAM,
    NGRAM_TABLE,
    NGRAM_VERSION,
    STATIC,
    TABLE_FILE,
    TOKENIZER_FILE,
    Manifest,
    Ngrams,
)
from whit.export.checkpoint import FloatArray
from whit.export.cosines import unit_rows
from whit.export.distill.options import TEACHER_DTYPES, cache_folder
from whit.export.distill.projection import principal_directions, project
from whit.export.distill.teacher import PackageTeacher, open_teacher
from whit.export.distill.vectors import TeacherVectors
from whit.export.errors import CheckpointError, OptionError
from whit.export.evaluate.metrics import correlation
from whit.export.parallel import core_count
from whit.export.sealing import check_name, check_out, file_hashes, name_from, publish, scratch_beside, seal
from whit.export.static.fit import FitOptions, bags, fit, steady
from whit.export.static.ngrams import HashedNgrams, common_vectors
from whit.export.static.table import check_storage, random_turn, write_table
from whit.export.static.tokens import Tokens, choose_tokens, token_vectors
from whit.export.static.typos import misspell
from whit.export.texts import read_texts
from whit.runtime.package import Package, open_package
from whit.runtime.packing import TokenIds
from whit.runtime.static import StaticEncoder

Progress = Callable[[str, int, int], None]

_LEAST_TEXTS = 3  # two are held out
_HELD_OUT = 0.02  # share of the texts that nothing is fitted to; the report is about them
_START_LENGTH = 0.1  # mean length of a row at the start; learning rates are chosen for it
_MOST_ROWS = 1 << 22  # more than a corpus has n-grams of up to five letters
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
    ngram_row_count: int | None = None  # rows that n-grams of words are hashed to; None: the teacher's tokens
    shortest_ngram: int = 3  # characters
    longest_ngram: int = 4
    typo_share: float = 0.0  # every text is read a second time with so many of its longer words misspelt; 0: it is not
    max_token_count: int | None = None  # None: 512, or 4096 where tokens are n-grams, of which a word has about eight
    smoothing: float = 1e-3  # start: a row is weighted by a / (a + p) (SIF: Arora et al., ICLR 2017); p by rank
    epochs: int = 8
    learning_rate: float = 5e-3
    similarity_weight: float = 0.0
    teacher_token_count: int = 160  # the teacher reads no more of a text
    teacher_dtype: str = "float32"  # of a teacher that is a checkpoint folder; int8 is quicker
    seed: int = 0

    name: str | None = None  # default: the teacher's name and "-static"
    cache: Path | None = None  # where the teacher's vectors are kept; default: as in whit distill
    threads: int | None = None  # of the teacher; None: one a core

    @property
    def ngrams(self) -> Ngrams | None:
        """How words are read where that needs no tokenizer."""
        return None if self.ngram_row_count is None else Ngrams(self.shortest_ngram, self.longest_ngram)

    @property
    def limit(self) -> int:
        """Tokens of a text that are read."""
        return self.max_token_count or (512 if self.ngram_row_count is None else 4096)

    def check(self) -> None:
        """Raises CheckpointError for the first option that is out of range, whatever the teacher."""
        import scipy.sparse  # noqa: F401  (where it is missing, that is said before the teacher's work and not after)

        check_storage(self.dtype, self.dimension_count, self.code_count)
        if self.name is not None:
            check_name(self.name)
        if self.teacher_dtype not in TEACHER_DTYPES:
            raise OptionError(
                "teacher_dtype", f"must be one of {', '.join(TEACHER_DTYPES)}, got {self.teacher_dtype!r}"
            )
        for name in ("text_count", "dimension_count", "max_token_count", "epochs", "teacher_token_count", "threads"):
            value, least = getattr(self, name), _LEAST_TEXTS if name == "text_count" else 1
            if value is not None and value < least:
                raise OptionError(name, f"must be at least {least}, got {value}")
        for name in ("smoothing", "learning_rate"):
            if not 0 < getattr(self, name) < 1:
                raise OptionError(name, f"must be between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.typo_share <= 1:
            raise OptionError("typo_share", f"must be 0 to 1, got {self.typo_share}")
        for name in ("word_count", "similarity_weight", "seed"):
            if not getattr(self, name) >= 0:
                raise OptionError(name, f"must be 0 or more, got {getattr(self, name)}")
        _check_ngrams(self)


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
    options.check()
    check_out(out)
    with scratch_beside(out) as scratch:
        cache = cache_folder(options.cache)
        teacher = open_teacher(source, cache, options.teacher_dtype, progress)
        width = teacher.manifest.dimension_count
        if options.dimension_count > width:
            raise OptionError(
                "dimension_count", f"must be at most {width}, the teacher's; got {options.dimension_count}"
            )
        texts = _read(options)
        tokens = _vocabulary(teacher, texts, options)
        texts, sequences = _readable(texts, tokens.encode(texts, options.limit))
        vectors = TeacherVectors(
            PackageTeacher(teacher, options.threads or core_count()),
            texts,
            cache,
            max_token_count=options.teacher_token_count,
        )
        wanted = vectors.rows(np.arange(len(texts)), lambda done: progress("teacher (texts)", done, len(texts)))
        directions = principal_directions(wanted, options.dimension_count)  # of sentences, not of tokens
        if options.dtype == "pq":
            directions = directions @ random_turn(options.dimension_count, options.seed)
        targets = unit_rows(project(wanted, directions))
        if isinstance(tokens, HashedNgrams):
            held = _held_out(len(texts))[0]
            said = common_vectors(bags(sequences[:held], len(tokens)), targets[:held])
        else:
            said = token_vectors(teacher, tokens, lambda done: progress("teacher (tokens)", done, len(tokens)))
            said = said @ directions
        table, start, counts = _learn(texts, sequences, targets, said, tokens, options, progress)

        new = scratch / "package"
        package = _write(new, teacher, tokens, table, counts, options, len(texts))
        held = _held_out(len(texts))
        report = _report(package, tokens, counts, sequences, targets, start, held)
        seal(package, report.lasting())
        report = replace(report, fingerprint=open_package(new).manifest.fingerprint)
        publish(new, out)
    return report


def _check_ngrams(options: StaticOptions) -> None:
    if options.ngram_row_count is None:
        return
    if not 1 <= options.ngram_row_count <= _MOST_ROWS:
        raise OptionError("ngram_row_count", f"must be 1 to {_MOST_ROWS}, got {options.ngram_row_count}")
    if not 2 <= options.shortest_ngram <= options.longest_ngram <= LONGEST_NGRAM:
        raise CheckpointError(
            f"n-grams must have 2 <= shortest_ngram <= longest_ngram <= {LONGEST_NGRAM}, "
            f"got {options.shortest_ngram} and {options.longest_ngram}"
        )
    for name, given in (("vocabulary_size", options.vocabulary_size), ("word_count", options.word_count)):
        if given:
            raise OptionError(name, "is about tokens, and with ngram_row_count there are none; leave one of them out")


def _read(options: StaticOptions) -> list[str]:
    """Distinct texts of all files, in an order of their own."""
    texts = list(dict.fromkeys(text for path in options.texts for text in read_texts(path, least=100)))
    order = np.random.default_rng(options.seed).permutation(len(texts))[: options.text_count]
    return [texts[i] for i in order]


def _readable(texts: Sequence[str], sequences: Sequence[TokenIds]) -> tuple[list[str], list[TokenIds]]:
    """The texts that have a token, and their tokens; of white space and control characters alone a table learns nothing."""
    some = [i for i, ids in enumerate(sequences) if len(ids)]
    if len(some) < _LEAST_TEXTS:
        raise CheckpointError(
            f"there are {len(some)} different texts with anything to read in them; give at least {_LEAST_TEXTS}, better 100,000"
        )
    return [texts[i] for i in some], [sequences[i] for i in some]


def _vocabulary(teacher: Package, texts: Sequence[str], options: StaticOptions) -> Tokens | HashedNgrams:
    if options.ngrams and options.ngram_row_count:
        return HashedNgrams(options.ngrams, options.ngram_row_count)
    if teacher.manifest.ngrams:
        raise CheckpointError(f"{teacher.directory} has no tokenizer to take tokens from; give ngram_row_count, too")
    return choose_tokens(teacher, texts, options.vocabulary_size, options.word_count)


def _held_out(count: int) -> TokenIds:
    return np.arange(count - max(2, int(count * _HELD_OUT)), count)


def _learn(
    texts: Sequence[str],
    sequences: Sequence[TokenIds],
    targets: FloatArray,
    said: FloatArray,
    tokens: Tokens | HashedNgrams,
    options: StaticOptions,
    progress: Progress,
) -> tuple[FloatArray, FloatArray, TokenIds]:
    """The table, what it was at the start, and how often each token occurs."""
    held = int(_held_out(len(sequences))[0])
    read, wanted = sequences[:held], targets[:held]
    counts = np.bincount(np.concatenate(read), minlength=len(tokens))
    ranks = np.empty(len(counts))
    ranks[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
    chance = 1 / ranks / (1 / ranks).sum()  # Zipf's law: smoother than counts
    start = said * (options.smoothing / (options.smoothing + chance))[:, None]
    start = np.asarray(start * (_START_LENGTH / np.linalg.norm(start, axis=1).mean()), np.float32)
    if options.typo_share:
        rng = np.random.default_rng(options.seed)
        slips = [misspell(text, rng, share=options.typo_share) for text in texts[:held]]
        read, wanted = [*read, *tokens.encode(slips, options.limit)], np.concatenate([wanted, wanted])
    table = fit(
        bags(read, len(tokens)),
        wanted,
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
    tokens: Tokens | HashedNgrams,
    table: FloatArray,
    counts: TokenIds,
    options: StaticOptions,
    text_count: int,
) -> Package:
    folder.mkdir()
    # A token in no text still is in some other: every row counts for something.
    write_table(folder, table, options.dtype, options.code_count, np.sqrt(counts + 1.0), options.seed)
    if isinstance(tokens, Tokens):
        (folder / TOKENIZER_FILE).write_text(tokens.tokenizer.to_str(pretty=False), encoding="utf-8")
    for pattern in _LICENSES:
        for path in sorted(teacher.directory.glob(pattern)):
            shutil.copy(path, folder / path.name)
    chosen = asdict(options)
    for name in ("texts", "name", "cache", "threads"):
        del chosen[name]
    manifest = Manifest(
        name=options.name or name_from(f"{teacher.manifest.name}-static"),
        architecture=NGRAM_TABLE if options.ngrams else "static",
        dimension_count=options.dimension_count,
        max_token_count=options.limit,
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
        ngrams=options.ngrams,
        format_version=NGRAM_VERSION if options.ngrams else KINDS[STATIC].format_version,
    )
    return Package(folder, manifest)


def _halves(count: int) -> tuple[int, ...]:
    """Lengths to which a vector can be cut and still be of use: a quarter and a half, of 32 values or more."""
    return tuple(size for size in (count // 4, count // 2) if size >= 32)


def _report(
    package: Package,
    tokens: Tokens | HashedNgrams,
    counts: TokenIds,
    sequences: Sequence[TokenIds],
    targets: FloatArray,
    start: FloatArray,
    held: TokenIds,
) -> StaticReport:
    texts = [sequences[i] for i in held]
    before = unit_rows(bags(texts, len(tokens)) @ start)
    after = StaticEncoder(package).run(texts)
    found, wanted = ((v[:1000] @ v[:1000].T).astype(np.float64) for v in (after, targets[held]))
    pairs = np.triu_indices(len(found), 1)
    alike = correlation(found[pairs], wanted[pairs]) if len(pairs[0]) > 1 else 1.0
    return StaticReport(
        name=package.manifest.name,
        fingerprint="",
        dtype=package.manifest.dtype,
        table_bytes=(package.directory / TABLE_FILE).stat().st_size,
        tokenizer_bytes=(package.directory / TOKENIZER_FILE).stat().st_size if isinstance(tokens, Tokens) else 0,
        token_count=len(tokens),
        seen_token_count=int((counts > 0).sum()),
        text_count=len(sequences),
        held_out_count=len(held),
        start_cosine=round(float((before * targets[held]).sum(axis=1).mean()), 6),
        cosine=round(float((after * targets[held]).sum(axis=1).mean()), 6),
        similarity_correlation=round(alike, 6),
    )
