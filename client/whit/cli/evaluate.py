"""``whit eval``: what packages are worth on evaluation sets, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import TaskID

from whit.cli.command import command, json_option, numbers
from whit.cli.output import console, counted, notice, print_json, progress, table

if TYPE_CHECKING:
    from whit.export.evaluate.cutoffs import Cutoffs
    from whit.export.evaluate.model import Model, Progress
    from whit.export.evaluate.outcome import Interval
    from whit.export.evaluate.run import Row, SetResult
    from whit.export.evaluate.sets import Form

# As in whit.export.evaluate.codes, which must not be imported for the sake of a help text; a test compares them.
CODES = ("float32", "float16", "int8", "4bit", "3bit", "2bit", "binary", "binary+rescore")

sts_option = click.option(
    "--sts",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="TSV file with a header and the columns sentence1, sentence2, score. May be repeated.",
)
retrieval_option = click.option(
    "--retrieval",
    multiple=True,
    metavar="FOLDER[:SPLIT]",
    help="Collection in BEIR layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv. SPLIT is test if left out. May be repeated.",
)
classify_option = click.option(
    "--classify",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Lines of a label, a tab and a text; a linear probe is fitted and judged over five folds. May be repeated.",
)
layers_option = click.option(
    "--layers",
    "layer_counts",
    metavar="N,N,...",
    callback=lambda _context, _parameter, value: numbers(value),
    help="Numbers of layers to compute, one row each; the packages must offer them (whit export --depths). Default: all.",
)


@command(
    "eval",
    examples=[
        "whit eval packages/mini --sts stsb-test.tsv --retrieval data/scifact",
        "whit eval packages/float packages/mini --sts stsb-test.tsv --json | jq '.sets[].rows'",
        "whit eval packages/mini --retrieval data/scifact:dev --dims 384,256,128 --encodings float32,int8,binary+rescore",
        "whit eval packages/deep --sts stsb-test.tsv --layers 6,4,2",
        "whit eval packages/mini --pairs duplicates.tsv --precision 0.95",
    ],
    exit_codes={1: "a package or a set cannot be used: one line on stderr names the file and line and says why"},
)
@click.argument("packages", nargs=-1, required=True, metavar="PACKAGE...", type=click.Path(path_type=Path))
@sts_option
@retrieval_option
@classify_option
@click.option(
    "--stress",
    type=int,
    metavar="N",
    help="Generate N documents and a query for every pair of them: recall of both. Shows what the dimensions can tell apart.",
)
@click.option(
    "--pairs",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="As --sts, with scores 0 and 1 or with --match-from: prints from which cosine on two texts match. May be repeated.",
)
@click.option(
    "--match-from", type=float, metavar="SCORE", help="Pairs of this score or a higher one match, with --pairs."
)
@click.option(
    "--precision",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    show_default=True,
    help="Least precision of the second cut-off of --pairs.",
)
@layers_option
@click.option("--dims", metavar="N,N,...", help="Leading dimensions to evaluate, one row each. Default: all.")
@click.option(
    "--encodings",
    metavar="NAME,NAME,...",
    help=f"How vectors are kept, one row each: {', '.join(CODES)}. Default: float32.",
)
@click.option("--centre", is_flag=True, help="Take the mean of a set's documents away before bits are made of them.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads that embed. Default: one for each core.")
@json_option
def eval(  # noqa: A001 - the command's name
    packages: tuple[Path, ...],
    sts: tuple[Path, ...],
    retrieval: tuple[str, ...],
    classify: tuple[Path, ...],
    stress: int | None,
    pairs: tuple[Path, ...],
    match_from: float | None,
    precision: float,
    layer_counts: tuple[int, ...] | None,
    dims: str | None,
    encodings: str | None,
    centre: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Score packages on your own sets: similarity, retrieval, classification, each with a 95 % interval.

    Vectors are made and encoded by the server's own code. With several packages, each is compared with the first on the
    same items, and p says how easily chance would make such a difference. Queries and documents get the package's prompts.
    """
    from whit.export.evaluate import read_sts
    from whit.export.evaluate.cutoffs import find_cutoffs, matches
    from whit.export.evaluate.model import open_models
    from whit.export.evaluate.run import check_forms, evaluate
    from whit.export.evaluate.sets import open_sets

    forms = _forms(dims, encodings, centre)
    wants_sets = bool(sts or retrieval or classify or stress is not None)
    if not (wants_sets or pairs):
        raise click.UsageError("nothing to evaluate on; give --sts, --retrieval, --classify, --pairs or --stress.")
    if match_from is not None and not pairs:
        raise click.UsageError("--match-from goes with --pairs.")
    # All files are read before a model spends any time.
    sets = open_sets(sts=sts, retrieval=retrieval, classification=classify, limit=stress) if wants_sets else []
    pair_sets = [(file, data, matches(data, match_from, str(file))) for file in pairs for data in [read_sts(file)]]
    with steps() as show:
        models = open_models(packages, layer_counts=layer_counts or (0,), threads=threads, progress=show)
        check_forms(models, forms)
        results = evaluate(models, sets, forms, progress=show)
        cutoffs = [
            (file.stem, model.name, find_cutoffs(model, data, match, precision))
            for file, data, match in pair_sets
            for model in models
        ]
    for model in models:
        if model.cut_count:
            limit = model.package.manifest.max_token_count
            notice(f"{model.name} reads {limit} tokens: {counted(model.cut_count, 'longer text')} cut there")
    if as_json:
        found = [{"set": name, "package": model, **_cutoff_facts(each)} for name, model, each in cutoffs]
        print_json({"packages": [identity(model) for model in models], "sets": results, "cutoffs": found})
        return
    out = console()
    for result in results:
        print_set(out, result)
    if cutoffs:
        _print_cutoffs(out, cutoffs, precision)


@contextmanager
def steps() -> Iterator[Progress]:
    """A progress bar on stderr with one line for each stage; gives the function that stages report to."""
    with progress() as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield show


def identity(model: Model) -> dict[str, object]:
    """What tells a package apart from others, for JSON."""
    manifest = model.package.manifest
    return {
        "package": str(model.package.directory),
        "name": model.name,
        "layer_count": model.layer_count,
        "fingerprint": manifest.fingerprint,
        "size_bytes": model.package.size_bytes,
        "dimension_count": manifest.dimension_count,
        "cut_text_count": model.cut_count,
    }


def print_set(out: Console, result: SetResult) -> None:
    """Prints one set's table: a row for each package and form."""
    columns = ["package", "dims", "encoding", "bytes", "score", "95 % interval"]
    compared = len(result.rows) > 1
    columns += ["difference", "95 % interval of it", "p"] if compared else []
    rows = [_cells(row) + (_difference_cells(row) if compared else []) for row in result.rows]
    title = f"{result.name}: {result.metric} x 100 over {result.item_count:,} items"
    right = ["dims", "bytes", "score", "difference", "p"]
    out.print(table(columns, rows, right=right, title=title))


def _cells(row: Row) -> list[str]:
    return [
        row.model,
        str(row.dimension_count),
        row.code,
        str(row.row_bytes),
        f"{row.score:.2f}",
        interval(row.interval),
    ]


def _difference_cells(row: Row) -> list[str]:
    if row.comparison is None:
        return ["-", "-", "-"]
    found = row.comparison
    return [f"{found.difference:+.2f}", interval(found.interval, sign=True), f"{found.p:.3f}"]


def interval(value: Interval, *, sign: bool = False, digits: int = 2) -> str:
    """An interval for a person."""
    form = f"{'+' if sign else ''}.{digits}f"
    return f"{value.low:{form}} to {value.high:{form}}"


def _print_cutoffs(out: Console, cutoffs: Sequence[tuple[str, str, Cutoffs]], precision: float) -> None:
    rows = []
    for name, model, found in cutoffs:
        for words, cut in (("best F1", found.best_f1), (f"precision {precision:g}", found.at_precision)):
            values = (
                ["none reaches it", "-", "-", "-", "-"]
                if cut is None
                else [
                    f"{cut.cosine:.4f}",
                    interval(cut.interval, digits=3),
                    f"{cut.precision:.3f}",
                    f"{cut.recall:.3f}",
                    f"{cut.f1:.3f}",
                ]
            )
            rows.append([name, model, words, *values])
    columns = ["pairs", "package", "cut-off for", "cosine from", "95 % interval", "precision", "recall", "F1"]
    out.print(table(columns, rows, right=["cosine from", "precision", "recall", "F1"]))


def _cutoff_facts(found: Cutoffs) -> dict[str, object]:
    return {
        "pair_count": found.pair_count,
        "match_count": found.match_count,
        "best_f1": found.best_f1,
        "at_precision": found.at_precision,
    }


def _forms(dims: str | None, encodings: str | None, centre: bool) -> list[Form]:
    """Every dimension count with every encoding."""
    from whit.export.evaluate.codes import Code
    from whit.export.evaluate.sets import Form

    counts: list[int | None] = [None]
    if dims is not None:
        try:
            counts = [int(part) for part in dims.split(",")]
        except ValueError as error:
            raise click.BadParameter(f"{dims!r} is no list of numbers such as 384,128", param_hint="--dims") from error
    names = encodings.split(",") if encodings else ["float32"]
    for name in names:
        if name not in CODES:
            raise click.BadParameter(f"{name!r} is none of {', '.join(CODES)}", param_hint="--encodings")
    codes = [Code(name) for name in names]
    centrable = (Code.BINARY, Code.BINARY_RESCORED)
    return [
        Form(count, code, centre and (code in centrable or code.bits is not None)) for count in counts for code in codes
    ]
