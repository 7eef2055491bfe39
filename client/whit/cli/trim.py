"""``whit trim``: a checkpoint with a smaller vocabulary."""

from __future__ import annotations

from pathlib import Path

import click

from whit.cli.command import command, json_option
from whit.cli.output import console, facts, jsonable, print_json, shell_word


@command(
    "trim",
    examples=[
        "whit trim ./all-MiniLM-L6-v2 --out build/trimmed",
        "whit trim ./all-MiniLM-L6-v2 --corpus my-texts.txt --size 16000 --out build/trimmed",
        "whit trim ./all-MiniLM-L6-v2 --corpus my-texts.txt --size 16000 --share --out build/shared",
        "whit trim ./all-MiniLM-L6-v2 --corpus my-texts.txt.gz --out build/trimmed --json | jq .text_share",
    ],
    exit_codes={1: "the checkpoint cannot be used, or DIR cannot be written: one line on stderr says why"},
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Directory of the new checkpoint. One that whit made is replaced when the new one is done.",
)
@click.option(
    "--corpus",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="UTF-8 text of the kind you will embed, one text a line, plain or .gz; tokens that do not occur in it go. "
    "Default: only tokens that no text can produce go.",
)
@click.option(
    "--size",
    type=click.IntRange(min=1),
    help="Tokens to keep, those that matter most to the corpus. Default: all that occur in it.",
)
@click.option(
    "--share",
    is_flag=True,
    help="With --size: all tokens stay, but only so many have a row of their own; any other uses the row of the token "
    "most like it, instead of being read in pieces.",
)
@json_option
def trim(checkpoint: Path, out: Path, corpus: Path | None, size: int | None, share: bool, as_json: bool) -> None:
    """Make the vocabulary of CHECKPOINT smaller: half of a small encoder is its table of word embeddings.

    A text whose tokens are all kept has the same vector as before. Any text that could be read still can: a word whose
    token went is read in smaller pieces.
    """
    if share and size is None:
        raise click.UsageError("--share goes with --size: how many rows the tokens share.")
    if size is not None and corpus is None:
        raise click.UsageError("--size goes with --corpus, which says which tokens to keep.")
    from whit.cli.export import stages
    from whit.export.vocabulary import TrimOptions, trim_vocabulary

    with stages() as show:
        report = trim_vocabulary(checkpoint, out, TrimOptions(corpus, size, share), show)
    if as_json:
        print_json({"checkpoint": str(out), **jsonable(report)})
        return
    pairs: list[tuple[str, object]] = [
        ("checkpoint", str(out)),
        ("vocabulary", f"{report.token_count} of {report.token_count_before} tokens"),
    ]
    if share:
        pairs.append(("rows", f"{report.row_count} for {report.token_count} tokens"))
    if corpus is not None:
        pairs += [
            ("tokens of the corpus", f"{report.token_share:.2%} are read as before"),
            ("texts of the corpus", f"{report.text_share:.2%} have the same vector"),
            ("tokens a text", f"{report.length_ratio:.3f} times as many"),
        ]
    console().print(facts(pairs))
    console().print(f"next: whit export {shell_word(out)} --out DIR", soft_wrap=True)
