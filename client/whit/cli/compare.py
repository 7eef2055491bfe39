"""``whit compare``: packages beside each other in size, speed and quality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from whit.cli.command import command, json_option
from whit.cli.evaluate import classify_option, identity, interval, layers_option, retrieval_option, steps, sts_option
from whit.cli.output import console, jsonable, naming, notice, print_json, size, table

if TYPE_CHECKING:
    from whit.export.evaluate.pareto import Candidate
    from whit.export.evaluate.run import SetResult
    from whit.export.evaluate.sets import EvaluationSet

_TIMED_TEXTS = 256


@command(
    "compare",
    examples=[
        "whit compare packages/float packages/int8 packages/mini --sts stsb-test.tsv",
        "whit compare packages/* --sts stsb-test.tsv --retrieval data/scifact --plot frontier.svg",
        "whit compare packages/a packages/b --sts stsb-test.tsv --json | jq '.packages[].speed.ratio'",
    ],
    exit_codes={1: "a package or a set cannot be used, or the plot cannot be written: one line on stderr says why"},
)
@click.argument("packages", nargs=-1, required=True, metavar="PACKAGE...", type=click.Path(path_type=Path))
@sts_option
@retrieval_option
@classify_option
@layers_option
@click.option(
    "--texts",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"UTF-8 file, one text a line; speed is measured on its first {_TIMED_TEXTS}. Default: the sentences of the first "
    "--sts file, or a text that ships with whit.",
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns that each package is timed."
)
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Draw quality over size and speed: FILE.svg or FILE.html.",
)
@json_option
def compare(
    packages: tuple[Path, ...],
    sts: tuple[Path, ...],
    retrieval: tuple[str, ...],
    classify: tuple[Path, ...],
    layer_counts: tuple[int, ...] | None,
    texts: Path | None,
    rounds: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Put packages beside each other: size, speed, quality, and which of them another one beats in everything.

    The first package is the base: speeds are multiples of its own, and differences in quality are tested against it. All
    are timed in turns, one thread, in CPU time, so that other work on the machine matters little.
    """
    from whit.export.evaluate.model import open_models
    from whit.export.evaluate.pareto import candidates, measure_speeds, panels
    from whit.export.evaluate.plot import html, svg
    from whit.export.evaluate.run import evaluate
    from whit.export.evaluate.sets import open_sets

    if plot and plot.suffix not in {".svg", ".html"}:
        raise click.BadParameter(f"{plot} must end in .svg or .html", param_hint="--plot")
    if plot and not plot.absolute().parent.is_dir():
        raise click.UsageError(f"--plot: the directory {plot.parent} is not there; make it first.")
    if not (sts or retrieval or classify):
        raise click.UsageError("nothing to compare on; give --sts, --retrieval or --classify.")
    sets = open_sets(sts=sts, retrieval=retrieval, classification=classify)
    timed = _timed_texts(texts, sets)
    with steps() as show:
        models = open_models(packages, layer_counts=layer_counts or (0,), progress=show)
        speeds = measure_speeds(models, timed, rounds=rounds, progress=show)
        results = evaluate(models, sets, progress=show)
    found = candidates(models, speeds, results)
    if plot:
        drawn = panels(found, results)
        with naming(plot):
            plot.write_text(svg(drawn) if plot.suffix == ".svg" else html(drawn, "Packages compared"), encoding="utf-8")
        notice(f"drawn: {plot}")
    if as_json:
        rows = [{**identity(model), **jsonable(candidate)} for model, candidate in zip(models, found, strict=True)]
        print_json({"timed_text_count": len(timed), "rounds": rounds, "packages": rows, "sets": results})
        return
    _print(found, results)


def _timed_texts(file: Path | None, sets: Sequence[EvaluationSet]) -> list[str]:
    from whit.export.compile import calibration_texts
    from whit.export.evaluate.sets import StsSet
    from whit.export.texts import read_texts

    if file is not None:
        return read_texts(file, limit=_TIMED_TEXTS, purpose="--texts")
    pairs = next((each.data for each in sets if isinstance(each, StsSet)), None)
    if pairs is not None:
        return [*pairs.first, *pairs.second][:_TIMED_TEXTS]
    return calibration_texts(None)[:_TIMED_TEXTS]


def _print(found: Sequence[Candidate], results: Sequence[SetResult]) -> None:
    base = found[0].name
    columns = [
        "package",
        "size",
        "texts/s of CPU",
        f"times {base}",
        *(f"{r.name}, {r.metric}" for r in results),
        "beaten by",
    ]
    rows = [
        [
            candidate.name,
            size(candidate.size_bytes),
            f"{candidate.speed.texts_per_cpu_s:,.0f}",
            f"{candidate.speed.ratio:.2f} ({candidate.speed.ratio_low:.2f} to {candidate.speed.ratio_high:.2f})",
            *(f"{result.rows[i].score:.2f} ({interval(result.rows[i].interval, digits=1)})" for result in results),
            ", ".join(candidate.dominated_by) or "-",
        ]
        for i, candidate in enumerate(found)
    ]
    out = console()
    out.print(table(columns, rows, right=columns[1:3]))
    tests = [
        [
            result.name,
            row.model,
            f"{row.comparison.difference:+.2f}",
            interval(row.comparison.interval, sign=True),
            f"{row.comparison.p:.3f}",
        ]
        for result in results
        for row in result.rows
        if row.comparison
    ]
    if tests:
        heads = ["set", "package", f"difference from {base}", "95 % interval", "p"]
        out.print(table(heads, tests, right=[heads[2], "p"]))
