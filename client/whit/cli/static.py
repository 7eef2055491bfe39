"""``whit static``: a table that gives a transformer's vectors, roughly, a hundred times as fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from whit.cli.command import command, json_option
from whit.cli.export import stages
from whit.cli.output import console, counted, facts, print_json, shell_word, size

if TYPE_CHECKING:
    from whit.export.static import StaticReport


@command(
    "static",
    examples=[
        "whit static packages/all-MiniLM-L6-v2 --texts corpus.txt.gz --out packages/static",
        "whit static ./all-MiniLM-L6-v2 --texts a.txt --texts b.txt --out packages/static --vocabulary-size 29000",
        "whit static packages/mini --texts corpus.txt --out packages/tiny --dtype pq --vocabulary-size 16000 --json",
        "whit static packages/mini --texts corpus.txt --out packages/ngrams --ngram-row-count 8192",
    ],
    exit_codes={1: "the teacher or a text file cannot be used: one line on stderr says why"},
)
@click.argument("teacher", type=click.Path(path_type=Path))
@click.option(
    "--texts",
    required=True,
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="UTF-8 text of the kind you will embed, one text a line, plain or .gz. Repeat it for several files.",
)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Directory of the new package. A package that is there already is replaced when the new one is done.",
)
@click.option(
    "--text-count",
    type=int,
    default=200_000,
    show_default=True,
    help="Texts to learn from, at most: a random choice. The teacher embeds each once, which takes most of the time.",
)
@click.option("--dimension-count", type=int, default=256, show_default=True, help="Values in a vector.")
@click.option(
    "--dtype",
    type=click.Choice(["int8", "float16", "pq"]),
    default="int8",
    show_default=True,
    help="How the table is stored: a byte a value, two, or product-quantised to --code-count bytes a token.",
)
@click.option(
    "--code-count", type=int, default=32, show_default=True, help="pq: bytes a token; divides the dimensions."
)
@click.option(
    "--vocabulary-size",
    type=int,
    metavar="N",
    help="Tokens to keep, by how often they occur in the texts. Default: all that some text can produce.",
)
@click.option(
    "--word-count",
    type=int,
    default=0,
    show_default=True,
    help="Frequent words that the teacher reads in pieces and that become tokens of their own, at most. WordPiece only.",
)
@click.option(
    "--ngram-row-count",
    type=int,
    metavar="N",
    help="No tokenizer: words are read as n-grams of characters, which are hashed to N rows. Forgives misspelt words.",
)
@click.option("--shortest-ngram", type=int, default=3, show_default=True, help="n-grams: characters, at least.")
@click.option("--longest-ngram", type=int, default=4, show_default=True, help="n-grams: characters, at most.")
@click.option(
    "--typo-share",
    type=float,
    default=0.0,
    show_default=True,
    help="Learn each text a second time with this share of its longer words misspelt. Helps with typos, costs elsewhere.",
)
@click.option(
    "--max-token-count",
    type=int,
    metavar="N",
    help="Longest text the package reads, in tokens. Default: 512, or 4096 where a token is an n-gram.",
)
@click.option("--epochs", type=int, default=8, show_default=True, help="Times that every text is seen.")
@click.option("--learning-rate", type=float, default=5e-3, show_default=True, help="The highest; Adam.")
@click.option(
    "--similarity-weight",
    type=float,
    default=0.0,
    show_default=True,
    help="Loss: squared difference of the cosines between the texts of a batch, beside the cosine to the teacher.",
)
@click.option(
    "--smoothing",
    type=float,
    default=1e-3,
    show_default=True,
    help="Start: a token of probability p has the weight a / (a + p); this is a.",
)
@click.option(
    "--teacher-dtype",
    type=click.Choice(["float32", "int8"]),
    default="float32",
    show_default=True,
    help="How a checkpoint folder is compiled to be the teacher; int8 is quicker and a little less exact.",
)
@click.option("--name", help="Name under which the package is served. Default: the teacher's, and -static.")
@click.option(
    "--cache",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the teacher's vectors are kept for the next run. Default: whit/distill in your cache folder.",
)
@click.option("--threads", type=int, metavar="N", help="Threads of the teacher. Default: one a core.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice and the order of the texts.")
@json_option
def static(teacher: Path, out: Path, texts: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Make a static package from TEACHER: a package, or a checkpoint folder.

    A static package has a vector for each token, or each n-gram of characters, and a text's vector is their mean. It is small, needs no graph, and is
    a hundred times as fast as the transformer that it learns from. Takes any text, without labels.
    """
    from whit.export.static import StaticOptions, make_static

    with stages() as show:
        report = make_static(teacher, out, StaticOptions(texts=texts, **options), show)
    if as_json:
        print_json(report)
        return
    _print_report(report, out)
    console().print(f"next: whit verify {shell_word(out)}, or whit serve --models {shell_word(out)}", soft_wrap=True)


def _print_report(report: StaticReport, out: Path) -> None:
    tokenizer = f"tokenizer {size(report.tokenizer_bytes)}" if report.tokenizer_bytes else "no tokenizer"
    pairs: list[tuple[str, object]] = [
        ("package", f"{out}: {report.name}, {report.dtype}"),
        ("fingerprint", report.fingerprint),
        ("size", f"table {size(report.table_bytes)}, {tokenizer}"),
        ("tokens", f"{report.token_count}, of which {report.seen_token_count} occur in the texts"),
        ("learned from", f"{counted(report.text_count, 'text')}, {report.held_out_count} of them held out"),
        ("cosine to the teacher", f"{report.start_cosine:.4f} at the start, {report.cosine:.4f} now (held-out texts)"),
        ("similarities", f"correlation with the teacher's {report.similarity_correlation:.4f} (held-out texts)"),
    ]
    console().print(facts(pairs))
