"""``whit export``: a checkpoint folder becomes a package."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from whit.cli.command import command, json_option, numbers
from whit.cli.output import console, facts, jsonable, notice, print_json, progress, shell_word, size, table
from whit.cli.signals import interrupted_by_signals
from whit.contract.pooling import POOLING_RULE

if TYPE_CHECKING:
    from whit.export.compile import Progress
    from whit.export.report import Report

# Folders that are called after what they hold say nothing about the model: model, checkpoint-500, a commit hash.
_NAMELESS = re.compile(
    r"(model|models|checkpoint|output|out|snapshot|final|best|export)([-_.]?\d+)?|[0-9a-f]{32,}", re.IGNORECASE
)


@command(
    "export",
    examples=[
        "whit export ./all-MiniLM-L6-v2 --out packages/all-MiniLM-L6-v2",
        "whit export ./model --out packages/mini --name all-MiniLM-L6-v2 --calibration my-texts.txt",
        "whit export ./model --out packages/float --name mini-float --dtype float32 --json | jq .graph_bytes",
        "whit export ./model --out packages/small --recipe export/recipes/int8.toml",
    ],
    exit_codes={1: "the checkpoint cannot be used, or DIR cannot be written: one line on stderr says why"},
)
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Directory of the new package. A package that is there already is replaced when the new one is done.",
)
@click.option(
    "--dtype",
    type=click.Choice(["int8", "float32"]),
    default="int8",
    show_default=True,
    help="Numbers of the package: int8 is a quarter of the size and faster, float32 has the checkpoint's own vectors.",
)
@click.option(
    "--embedding-dtype",
    type=click.Choice(["int8", "int4", "pq"]),
    default="int8",
    show_default=True,
    help="int8: how word embeddings are stored, half of a small package: a byte a value, half of one, or product-quantised "
    "to --embedding-code-count bytes a word.",
)
@click.option(
    "--embedding-code-count",
    type=click.IntRange(min=1),
    metavar="N",
    help="--embedding-dtype pq: bytes a word; divides the width of the embeddings. Default: a quarter of that width.",
)
@click.option(
    "--depths",
    metavar="N,M,…",
    callback=lambda _context, _parameter, value: numbers(value),
    help="Numbers of layers, fewer than all, with which the package can be run, too: each request chooses. The weights are "
    "stored once; train for it with whit distill --depths.",
)
@click.option("--name", help="Name under which the package is served. Default: the name of the CHECKPOINT folder.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="UTF-8 file, one text a line, of the kind you will embed; int8 scales are chosen on it. Default: a text that "
    "ships with whit.",
)
@click.option(
    "--pooling",
    metavar="NAME",
    help=f"How token vectors become one, if the checkpoint does not say: {POOLING_RULE}. Default: mean.",
)
@click.option(
    "--max-token-count",
    type=click.IntRange(min=1),
    help="Longest text the package reads, in tokens. Default: what the checkpoint states.",
)
@click.option(
    "--max-loss",
    type=click.FloatRange(0, 100),
    metavar="POINTS",
    default=5.0,
    show_default=True,
    help="int8: points of rank agreement with float32 that may be lost on the calibration text (100 minus Spearman x 100 "
    "over the cosines of all pairs). Beyond it the costliest layers stay float32; if that does not help, nothing is written.",
)
@click.option(
    "--sensitivity", is_flag=True, help="int8: also measure what each linear layer loses alone, for report.json."
)
@click.option(
    "--recipe",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="TOML file with steps to run before the export, and the export's options. CHECKPOINT takes the place of the one "
    "it names. What was done already is not done again.",
)
@click.option(
    "--work",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="With --recipe: where the steps' checkpoints, report.json and report.html go. Default: OUT-steps.",
)
@json_option
@click.pass_context
def export(
    context: click.Context,
    checkpoint: Path | None,
    out: Path,
    dtype: str,
    embedding_dtype: str,
    embedding_code_count: int | None,
    depths: tuple[int, ...] | None,
    name: str | None,
    calibration: Path | None,
    pooling: str | None,
    max_token_count: int | None,
    max_loss: float,
    sensitivity: bool,
    recipe: Path | None,
    work: Path | None,
    as_json: bool,
) -> None:
    """Compile CHECKPOINT, a Hugging Face or sentence-transformers folder, into a package that whit serve can load.

    Needs no network and no torch. int8 takes about a minute: it measures what each layer's scheme costs, and ends with
    a comparison against the float32 graph.
    """
    if recipe is not None:
        from whit.cli.recipe import export_recipe

        _refuse_beside_recipe(context)
        export_recipe(recipe, checkpoint, out, work, name, as_json)
        return
    if checkpoint is None:
        raise click.UsageError("Missing argument 'CHECKPOINT'.", context)
    if work is not None:
        raise click.UsageError("--work goes with --recipe.", context)
    if embedding_code_count is not None and embedding_dtype != "pq":
        raise click.UsageError("--embedding-code-count goes with --embedding-dtype pq.", context)
    from whit.export.compile import ExportOptions, compile_checkpoint

    options = ExportOptions(
        dtype=dtype,
        embedding_dtype=embedding_dtype,
        embedding_code_count=embedding_code_count,
        depths=depths or (),
        name=name,
        calibration=calibration,
        pooling=pooling,
        max_token_count=max_token_count,
        max_loss=max_loss,
        sensitivity=sensitivity,
    )
    start = time.perf_counter()
    with stages() as show:
        report = compile_checkpoint(checkpoint, out, options, show)
    seconds = time.perf_counter() - start
    note(report.unused_options, report.notes)
    if name is None and is_nameless(report.name):
        notice(f"the package is called {report.name!r}, after its folder; --name gives it a name to serve it under")
    if as_json:
        print_json({"package": str(out), **jsonable(report), "schemes": report.schemes, "time_s": round(seconds, 3)})
        return
    print_report(console(), report, out, seconds)
    console().print(f"next: whit verify {shell_word(out)}, or whit serve --models {shell_word(out)}", soft_wrap=True)


def _refuse_beside_recipe(context: click.Context) -> None:
    chosen = (
        "dtype",
        "embedding_dtype",
        "embedding_code_count",
        "depths",
        "calibration",
        "pooling",
        "max_token_count",
        "max_loss",
        "sensitivity",
    )
    for name in chosen:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{flag} is the recipe's to say: set {name} in its [export] table.", context)


def note(unused_options: Sequence[str], notes: Sequence[str]) -> None:
    """Says what is to be known about the checkpoint, and which options changed nothing."""
    for line in notes:
        notice(line)
    if unused_options:
        notice(
            f"{' and '.join(unused_options)} chose nothing: the int8 codes are those that the checkpoint was trained with (whit distill "
            "--qat); to have them chosen, remove rounding.safetensors from it"
        )


def is_nameless(name: str) -> bool:
    """Whether a folder's name says nothing about the model in it."""
    return _NAMELESS.fullmatch(name) is not None


@contextmanager
def stages() -> Iterator[Progress]:
    """A progress bar on stderr with one line for each stage of the compiler; gives the function that it reports to.

    A signal that ends the command meanwhile leaves nothing half made.
    """
    with interrupted_by_signals(), progress() as bar:
        tasks = {"": bar.add_task("reading the checkpoint", total=None)}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                bar.update(tasks.popitem()[1], visible=False)
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield show


def print_report(out: Console, report: Report, package: Path, seconds: float) -> None:
    """Prints what was made, what it cost and what it gained, and how each linear layer was compiled."""
    share = report.graph_bytes / report.float_graph_bytes
    is_float = report.dtype == "float32"
    pairs: list[tuple[str, object]] = [
        ("package", f"{package}: {report.name}, {report.dtype}"),
        ("fingerprint", report.fingerprint),
        ("size", size(report.graph_bytes) + ("" if is_float else f", {share:.0%} of float32's {size(report.float_graph_bytes)}")),
    ]  # fmt: skip
    if not is_float:
        pairs += [
            (
                "cosine to float32",
                f"mean {report.mean_cosine:.5f}, min {report.min_cosine:.5f} on {report.text_count} calibration texts",
            ),
            ("loss", f"{report.loss:.2f} points of rank agreement on them"),
            ("speed", f"{report.speed_ratio:.2f} times float32's texts/s, one thread"),
            ("linear layers", ", ".join(f"{count} {scheme}" for scheme, count in sorted(report.schemes.items()))),
        ]
    pairs.append(("compiled in", f"{seconds:.1f} s"))
    out.print(facts(pairs))
    if report.linears:
        rows = ((linear.name, linear.scheme, f"{linear.error:.4f}") for linear in report.linears)
        out.print(table(["linear layer", "scheme", "error"], rows, right=["error"]))
