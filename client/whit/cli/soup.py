"""``whit soup``: the mean of several checkpoints' weights."""

from __future__ import annotations

from pathlib import Path

import click

from whit.cli.command import command, decimals, json_option
from whit.cli.output import console, print_json, shell_word, table


@command(
    "soup",
    examples=[
        "whit soup ./seed-0 ./seed-1 ./seed-2 --out ./soup",
        "whit soup ./seed-0 ./seed-1 ./seed-2 --out ./soup --sts-dev stsb-dev.tsv",
        "whit soup ./before ./after --weights 0.3,0.7 --out ./between --json",
    ],
    exit_codes={1: "a checkpoint cannot be used, or DIR cannot be written: one line on stderr says why"},
)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the new checkpoint. One that whit made is replaced when the new one is done.",
)
@click.option(
    "--weights",
    metavar="X,Y,…",
    callback=lambda _context, _parameter, value: decimals(value),
    help="Share of each checkpoint, in their order; made to add up to 1. Default: equal shares.",
)
@click.option(
    "--sts-dev",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Greedy soup: TSV with sentence pairs and scores; a checkpoint goes in only if the score does not fall by it.",
)
@json_option
def soup(
    checkpoints: tuple[Path, ...], out: Path, weights: tuple[float, ...] | None, sts_dev: Path | None, as_json: bool
) -> None:
    """Average the weights of CHECKPOINTs into one model, no slower than any of them and often better than each.

    They must have one shape and one tokenizer, and have been trained from the same start: with other seeds, texts or options.
    """
    if len(checkpoints) < 2:
        raise click.UsageError("a soup needs at least 2 CHECKPOINTs, got 1; give more runs from the same start.")
    from whit.cli.export import stages
    from whit.export.soup import SoupOptions
    from whit.export.soup import soup as average

    with stages() as show:
        report = average(checkpoints[0], out, SoupOptions(checkpoints[1:], weights or (), sts_dev), show)
    if as_json:
        print_json(report)
        return
    rows = [(i.checkpoint, f"{i.weight:.3f}", i.sts) for i in report.ingredients]
    rows.append((f"soup: {report.out}", "1.000", report.sts))
    shown = [(name, share, "-" if sts is None else f"{sts:.2f}") for name, share, sts in rows]
    console().print(table(["checkpoint", "share", "STS"], shown, right=["share", "STS"]))
    console().print(f"next: whit export {shell_word(out)} --out PACKAGE", soft_wrap=True)
