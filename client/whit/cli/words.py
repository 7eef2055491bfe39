"""``whit words``: word vectors that others trained, as a package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from whit.cli.command import command, json_option
from whit.cli.export import stages
from whit.cli.output import console, facts, print_json, shell_word, size


@command(
    "words",
    examples=[
        "whit words glove.6B.300d.txt --out packages/glove",
        "whit words wiki.en.bin --out packages/fasttext --vocabulary-size 50000 --dimension-count 128",
    ],
    exit_codes={1: "the file cannot be used, or DIR cannot be written: one line on stderr says why"},
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Directory of the new package. A package that is there already is replaced when the new one is done.",
)
@click.option(
    "--vocabulary-size",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Words to keep: the first ones, which are the most frequent.",
)
@click.option("--dimension-count", type=int, help="Values in a vector, fewer by PCA. Default: what the file has.")
@click.option(
    "--smoothing",
    type=float,
    default=1e-3,
    show_default=True,
    help="A word of probability p has the weight a / (a + p); this is a.",
)
@click.option(
    "--dtype",
    type=click.Choice(["int8", "float16", "pq"]),
    default="int8",
    show_default=True,
    help="How the table is stored: a byte a value, two, or product-quantised to --code-count bytes a word.",
)
@click.option("--code-count", type=int, default=32, show_default=True, help="pq: bytes a word; divides the dimensions.")
@click.option(
    "--max-token-count", type=int, default=512, show_default=True, help="Longest text the package reads, in tokens."
)
@click.option("--name", help="Name under which the package is served. Default: the file's.")
@json_option
def words(file: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Make a static package from FILE: word vectors of word2vec, GloVe or fastText, text or binary.

    A text's vector is the weighted mean of its words' vectors. Of a fastText binary, words have their n-grams added in;
    words that are not in the file are left out of a text.
    """
    from whit.export.static.words import WordOptions, make_from_words

    with stages() as show:
        report = make_from_words(file, out, WordOptions(**options), show)
    if as_json:
        print_json(report)
        return
    pairs: list[tuple[str, object]] = [
        ("package", f"{out}: {report.name}, {report.dtype}, {report.dimension_count} dimensions"),
        ("fingerprint", report.fingerprint),
        ("size", f"table {size(report.table_bytes)}, tokenizer {size(report.tokenizer_bytes)}"),
        ("words", f"{report.word_count}, {'all lower case' if report.lower_case else 'case matters'}"),
    ]
    console().print(facts(pairs))
    console().print(f"next: whit verify {shell_word(out)}, or whit serve --models {shell_word(out)}", soft_wrap=True)
