"""From a file of word vectors to a static package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from whit.contract.manifest import KINDS, STATIC, TABLE_FILE, TOKENIZER_FILE, Manifest, sha256_of
from whit.export.errors import CheckpointError, OptionError
from whit.export.sealing import check_name, check_out, file_hashes, name_from, publish, scratch_beside, seal
from whit.export.static.table import check_storage, write_table
from whit.export.static.word_vectors import WordVectors, read_word_vectors
from whit.runtime.package import Package, open_package

Progress = Callable[[str, int, int], None]

UNKNOWN = "[UNK]"  # a row of zeros: a word that is not there adds nothing


@dataclass(frozen=True, slots=True)
class WordOptions:
    """What may be chosen about a package of word vectors."""

    vocabulary_size: int | None = 100_000  # the first so many words, which are the most frequent; None: all
    dimension_count: int | None = None  # fewer by PCA; None: as the file has them
    smoothing: float = 1e-3  # a word of probability p has the weight a / (a + p) (SIF: Arora et al., ICLR 2017)
    dtype: str = "int8"
    code_count: int = 32  # pq: codes a row
    max_token_count: int = 512
    seed: int = 0
    name: str | None = None  # default: the file's name


@dataclass(frozen=True, slots=True)
class WordReport:
    """What became of it."""

    name: str
    fingerprint: str
    dtype: str
    word_count: int
    dimension_count: int
    lower_case: bool  # no word has a capital, so texts are read without
    table_bytes: int
    tokenizer_bytes: int

    def lasting(self) -> dict[str, Any]:
        """What goes into ``report.json``: all but the package's own hash."""
        content = asdict(self)
        del content["fingerprint"]
        return content


def make_from_words(source: Path, out: Path, options: WordOptions, progress: Progress = lambda *_: None) -> WordReport:
    """Makes a static package at ``out`` of the word vectors in the file ``source``. It appears whole or not at all.

    Texts are split at white space and punctuation. A word's probability is taken from its place in the file (Zipf's law),
    and what all words have in common is taken away (Mu and Viswanath, "All-but-the-Top", ICLR 2018).

    Raises:
        CheckpointError: the file or an option cannot be used, or ``out`` exists and is no package. Says what to do.
    """
    if options.name is not None:
        check_name(options.name)
    if not 0 < options.smoothing < 1:
        raise OptionError("smoothing", f"must be between 0 and 1, got {options.smoothing}")
    for name in ("vocabulary_size", "dimension_count", "max_token_count"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise OptionError(name, f"must be at least 1, got {value}")
    check_out(out)
    progress("read words", 0, 1)
    found = read_word_vectors(source, options.vocabulary_size)
    size = options.dimension_count or found.vectors.shape[1]
    if size > found.vectors.shape[1]:
        raise OptionError("dimension_count", f"must be at most {found.vectors.shape[1]}, the file's; got {size}")
    check_storage(options.dtype, size, options.code_count)

    chance = 1 / np.arange(1, len(found.words) + 1)
    chance /= chance.sum()
    vectors = found.vectors - (chance @ found.vectors).astype(np.float32)
    if not vectors.any():
        raise CheckpointError(
            f"{source}: nothing tells its words apart ({len(found.words)} read); give a file with more of them"
        )
    if size < vectors.shape[1]:
        _, directions = np.linalg.eigh((vectors * chance[:, None].astype(np.float32)).T @ vectors)
        vectors = vectors @ directions[:, ::-1][:, :size]
    weighted = vectors * (options.smoothing / (options.smoothing + chance))[:, None]
    table = np.concatenate([np.zeros((1, size)), weighted]).astype(np.float32)

    with scratch_beside(out) as scratch:
        new = scratch / "package"
        new.mkdir()
        write_table(new, table, options.dtype, options.code_count, np.sqrt([0.0, *chance]), options.seed)
        lower_case = all(word == word.lower() for word in found.words)
        (new / TOKENIZER_FILE).write_text(_tokenizer(found, lower_case).to_str(pretty=False), encoding="utf-8")
        package = Package(new, _manifest(new, source, options, table.shape))
        report = WordReport(
            name=package.manifest.name,
            fingerprint="",
            dtype=options.dtype,
            word_count=len(found.words),
            dimension_count=size,
            lower_case=lower_case,
            table_bytes=(new / TABLE_FILE).stat().st_size,
            tokenizer_bytes=(new / TOKENIZER_FILE).stat().st_size,
        )
        seal(package, report.lasting())
        fingerprint = open_package(new).manifest.fingerprint
        publish(new, out)
    return WordReport(**(asdict(report) | {"fingerprint": fingerprint}))


def _tokenizer(found: WordVectors, lower_case: bool) -> tokenizers.Tokenizer:
    ids = {word: row for row, word in enumerate(found.words, start=1) if word != UNKNOWN}
    tokenizer = tokenizers.Tokenizer(models.WordLevel({UNKNOWN: 0, **ids}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if lower_case:
        tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def _manifest(folder: Path, source: Path, options: WordOptions, shape: tuple[int, ...]) -> Manifest:
    chosen = asdict(options)
    del chosen["name"]
    return Manifest(
        name=options.name or name_from(source.stem),
        architecture="static",
        dimension_count=shape[1],
        max_token_count=options.max_token_count,
        vocabulary_size=shape[0],
        pooling="mean",
        dtype=options.dtype,
        files=file_hashes(folder),
        provenance={
            "whit_version": metadata.version("whit"),
            "word_vectors": source.name,
            "word_vectors_sha256": sha256_of(source),
            "license": "unknown",
            "options": chosen,
        },
        kind=STATIC,
        format_version=KINDS[STATIC].format_version,
    )
