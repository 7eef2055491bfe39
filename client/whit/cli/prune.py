"""``whit prune``: a checkpoint folder becomes a smaller one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from whit.cli.command import command, json_option
from whit.cli.export import stages
from whit.cli.output import console, facts, jsonable, print_json, shell_word, table

if TYPE_CHECKING:
    from whit.export.prune.layers import LayerReport
    from whit.export.prune.speedup import SpeedupReport
    from whit.export.prune.width import WidthReport


class _Layers(click.ParamType[tuple[int, ...]]):
    """``0,2,4``."""

    name = "LIST"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of layers such as 0,2,4.", param, ctx)


class _Speedup(click.ParamType[float]):
    """``2x`` or ``1.5``."""

    name = "FACTOR"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            factor = float(str(value).removesuffix("x"))
        except ValueError:
            self.fail(f"{value!r} is not a factor such as 2x or 1.5.", param, ctx)
        if not 1 < factor < 1000:
            self.fail(f"{value!r} must be over 1x: how many times as fast the result shall be.", param, ctx)
        return factor


@command(
    "prune",
    examples=[
        "whit prune ./all-MiniLM-L6-v2 --out build/three-layers --keep-layers 0,2,5",
        "whit prune ./all-MiniLM-L6-v2 --out build/four-layers --layers 4 --criterion entropy",
        "whit prune ./all-MiniLM-L6-v2 --out build/narrow --intermediate-size 1152",
        "whit prune ./all-MiniLM-L6-v2 --out build/twice-as-fast --speedup 2x",
    ],
    exit_codes={1: "the checkpoint cannot be used, or DIR cannot be written: one line on stderr says why"},
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder of the new checkpoint."
)
@click.option(
    "--keep-layers",
    "keep",
    type=_Layers(),
    help="Keep these layers, counted from 0; one that is named twice is run twice.",
)
@click.option(
    "--layers", "count", metavar="N|auto", help="Keep so many layers; auto: up to the minimum of the loss curve."
)
@click.option(
    "--criterion",
    type=click.Choice(["cosine", "entropy", "loss", "even"]),
    help="How --layers chooses: the least change of the hidden states, the least increase of their entropy, the last "
    "layers (loss), or evenly spaced. Default: cosine, for auto loss.",
)
@click.option(
    "--reuse",
    is_flag=True,
    help="With --layers: run a kept layer again in the place of a dropped one, where that brings the vectors nearer. The "
    "package stores it once.",
)
@click.option(
    "--intermediate-size",
    "inner_count",
    type=click.IntRange(min=1),
    help="Keep at most so many feed-forward columns in each layer.",
)
@click.option(
    "--heads", "head_count", type=click.IntRange(min=1), help="Keep at most so many attention heads in each layer."
)
@click.option(
    "--speedup",
    "target",
    type=_Speedup(),
    help="Choose heads and columns of each layer so that it is so many times as fast here.",
)
@click.option(
    "--dtype",
    type=click.Choice(["int8", "float32"]),
    help="With --speedup: the package whose speed counts. Default: int8.",
)
@click.option(
    "--method",
    type=click.Choice(["stat", "obs", "magnitude"]),
    help="How heads and columns are chosen: interpolative decomposition (stat), optimal brain surgeon (obs), or the "
    "size of their weights, with no correction (magnitude). Default: stat, for --speedup obs.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="UTF-8 file, one text a line, of the kind you will embed. Default: a text that ships with whit.",
)
@json_option
def prune(
    checkpoint: Path,
    out: Path,
    keep: tuple[int, ...] | None,
    count: str | None,
    criterion: str | None,
    reuse: bool,
    inner_count: int | None,
    head_count: int | None,
    target: float | None,
    dtype: str | None,
    method: str | None,
    calibration: Path | None,
    as_json: bool,
) -> None:
    """Make CHECKPOINT smaller by leaving out layers, attention heads or feed-forward columns, without training.

    Give one of --keep-layers, --layers, --intermediate-size and --heads, or --speedup. The result is a checkpoint folder:
    prune it further, distill into it, or compile it with whit export. Runs on calibration text alone: no torch, no labels.
    """
    asked = {
        "--keep-layers or --layers": keep is not None or count is not None,
        "--intermediate-size or --heads": inner_count is not None or head_count is not None,
        "--speedup": target is not None,
    }
    if sum(asked.values()) != 1:
        raise click.UsageError(f"Give one of {', '.join(asked)}; further steps are commands of their own.")
    if keep is not None and count is not None:
        raise click.UsageError("Give --keep-layers, which names them, or --layers, which says how many.")
    if count == "auto" and criterion not in (None, "loss"):
        raise click.UsageError("--layers auto goes with --criterion loss; give a number with the others.")
    if (criterion is not None or reuse) and count is None:
        raise click.UsageError(f"{'--criterion' if criterion else '--reuse'} goes with --layers.")
    if dtype is not None and target is None:
        raise click.UsageError("--dtype goes with --speedup.")
    if method is not None and asked["--keep-layers or --layers"]:
        raise click.UsageError("--method goes with --intermediate-size, --heads or --speedup.")

    start = time.perf_counter()
    report: LayerReport | WidthReport | SpeedupReport
    with stages() as show:
        if target is not None:
            from whit.export.prune.speedup import SpeedupOptions, prune_to_speedup

            report = prune_to_speedup(
                checkpoint,
                out,
                SpeedupOptions(target, dtype=dtype or "int8", method=method or "obs", calibration=calibration),
                show,
            )
        elif asked["--keep-layers or --layers"]:
            from whit.export.prune.layers import LayerOptions, drop_layers

            layer_count = _layer_count(count)
            chosen = criterion or ("cosine" if layer_count else "loss")
            report = drop_layers(
                checkpoint,
                out,
                LayerOptions(keep, layer_count, criterion=chosen, reuse=reuse, calibration=calibration),
                show,
            )
        else:
            from whit.export.prune.width import WidthOptions, prune_width

            report = prune_width(
                checkpoint, out, WidthOptions(inner_count, head_count, method or "stat", calibration), show
            )
    seconds = time.perf_counter() - start
    if as_json:
        print_json({"checkpoint": str(out), **jsonable(report), "time_s": round(seconds, 3)})
    else:
        _print(report, out, seconds)


def _layer_count(layers: str | None) -> int | None:
    if layers is None or layers == "auto":
        return None
    if not layers.isdecimal():
        raise click.BadParameter(f"{layers!r} is neither a number nor auto.", param_hint="'--layers'")
    return int(layers)


def _print(report: LayerReport | WidthReport | SpeedupReport, out: Path, seconds: float) -> None:
    from whit.export.prune.layers import LayerReport
    from whit.export.prune.speedup import SpeedupReport

    pairs: list[tuple[str, object]] = [("checkpoint", out)]
    shown = report.width if isinstance(report, SpeedupReport) else report
    if isinstance(report, SpeedupReport):
        pairs.append(("speed", f"{report.speedup:.2f} times as fast ({report.dtype}, asked for {report.target:g})"))
        if report.speedup < report.target:
            pairs.append(("", "slower than asked for: run it again on a quieter machine, or ask for a little more"))
    if isinstance(shown, LayerReport):
        pairs.append(
            (
                "layers",
                f"{', '.join(map(str, shown.kept))} kept, {', '.join(map(str, shown.dropped)) or 'none'} dropped",
            )
        )
    pairs += [
        ("parameters", f"{shown.parameter_count:,} in layers, {shown.parameter_count / shown.parameter_count_before:.0%} of before"),
        ("cosine to before", f"mean {shown.mean_cosine:.5f}, min {shown.min_cosine:.5f} on the calibration texts"),
        ("pruned in", f"{seconds:.1f} s"),
    ]  # fmt: skip
    screen = console()
    screen.print(facts(pairs))
    if isinstance(shown, LayerReport):
        if shown.scores:
            rows = (
                (i, "kept" if i in shown.kept else "dropped", f"{score:.4f}") for i, score in enumerate(shown.scores)
            )
            screen.print(table(["layer", "", "score"], rows, right=["score"]))
    else:
        sizes = enumerate(zip(shown.head_counts, shown.inner_counts, strict=True))
        right = ["heads", "intermediate size"]
        screen.print(table(["layer", *right], ((i, heads, inner) for i, (heads, inner) in sizes), right=right))
    screen.print(f"next: whit export {shell_word(out)} --out DIR", soft_wrap=True)
