"""``whit prune``: a checkpoint folder becomes a smaller one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from whit.cli.command import command, json_option
from whit.cli.export import stages
from whit.cli.output import console, facts, jsonable, print_json, shell_word, table

if TYPE_CHECKING:
    from whit.export.compile import Progress
    from whit.export.prune.end_token import EndTokenReport
    from whit.export.prune.layers import LayerReport
    from whit.export.prune.speedup import SpeedupReport
    from whit.export.prune.width import WidthReport

    _Report = LayerReport | WidthReport | SpeedupReport | EndTokenReport


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
        "whit prune ./all-MiniLM-L6-v2 --out build/no-sep --no-end-token",
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
    "--no-end-token",
    is_flag=True,
    help="Put no special token after a text, such as [SEP]: a short text is then a tenth quicker. Distil afterwards.",
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
def prune(checkpoint: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Make CHECKPOINT smaller by leaving out layers, attention heads or feed-forward columns, without training.

    Give one of --keep-layers, --layers, --intermediate-size and --heads, --speedup, or --no-end-token. The result is a
    checkpoint folder: prune it further, distill into it, or compile it with whit export. Runs on calibration text alone: no
    torch, no labels.
    """
    asked = _Asked(**options)
    _check(asked)
    start = time.perf_counter()
    with stages() as show:
        report = _run(checkpoint, out, asked, show)
    seconds = time.perf_counter() - start
    if as_json:
        print_json({"checkpoint": str(out), **jsonable(report), "time_s": round(seconds, 3)})
    else:
        _print(report, out, seconds)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options of the command, by the names of the click options."""

    keep: tuple[int, ...] | None
    count: str | None
    criterion: str | None
    reuse: bool
    inner_count: int | None
    head_count: int | None
    target: float | None
    no_end_token: bool
    dtype: str | None
    method: str | None
    calibration: Path | None

    @property
    def by_layer(self) -> bool:
        return self.keep is not None or self.count is not None


def _check(asked: _Asked) -> None:
    kinds = {
        "--keep-layers or --layers": asked.by_layer,
        "--intermediate-size or --heads": asked.inner_count is not None or asked.head_count is not None,
        "--speedup": asked.target is not None,
        "--no-end-token": asked.no_end_token,
    }
    if sum(kinds.values()) != 1:
        raise click.UsageError(f"Give one of {', '.join(kinds)}; further steps are commands of their own.")
    if asked.keep is not None and asked.count is not None:
        raise click.UsageError("Give --keep-layers, which names them, or --layers, which says how many.")
    if asked.count == "auto" and asked.criterion not in (None, "loss"):
        raise click.UsageError("--layers auto goes with --criterion loss; give a number with the others.")
    if (asked.criterion is not None or asked.reuse) and asked.count is None:
        raise click.UsageError(f"{'--criterion' if asked.criterion else '--reuse'} goes with --layers.")
    if asked.dtype is not None and asked.target is None:
        raise click.UsageError("--dtype goes with --speedup.")
    if asked.method is not None and (asked.no_end_token or asked.by_layer):
        raise click.UsageError("--method goes with --intermediate-size, --heads or --speedup.")


def _run(checkpoint: Path, out: Path, asked: _Asked, show: Progress) -> _Report:
    if asked.target is not None:
        from whit.export.prune.speedup import SpeedupOptions, prune_to_speedup

        chosen = SpeedupOptions(
            asked.target, dtype=asked.dtype or "int8", method=asked.method or "obs", calibration=asked.calibration
        )
        return prune_to_speedup(checkpoint, out, chosen, show)
    if asked.no_end_token:
        from whit.export.prune.end_token import EndTokenOptions, drop_end_token

        return drop_end_token(checkpoint, out, EndTokenOptions(asked.calibration), show)
    if asked.by_layer:
        from whit.export.prune.layers import LayerOptions, drop_layers

        count = _layer_count(asked.count)
        criterion = asked.criterion or ("cosine" if count else "loss")
        layers = LayerOptions(asked.keep, count, criterion=criterion, reuse=asked.reuse, calibration=asked.calibration)
        return drop_layers(checkpoint, out, layers, show)
    from whit.export.prune.width import WidthOptions, prune_width

    width = WidthOptions(asked.inner_count, asked.head_count, asked.method or "stat", asked.calibration)
    return prune_width(checkpoint, out, width, show)


def _layer_count(layers: str | None) -> int | None:
    if layers is None or layers == "auto":
        return None
    if not layers.isdecimal():
        raise click.BadParameter(f"{layers!r} is neither a number nor auto.", param_hint="'--layers'")
    return int(layers)


def _print(report: _Report, out: Path, seconds: float) -> None:
    from whit.export.prune.end_token import EndTokenReport
    from whit.export.prune.layers import LayerReport
    from whit.export.prune.speedup import SpeedupReport

    pairs: list[tuple[str, object]] = [("checkpoint", out)]
    shown = report.width if isinstance(report, SpeedupReport) else report
    if isinstance(report, SpeedupReport):
        pairs.append(("speed", f"{report.speedup:.2f} times as fast ({report.dtype}, asked for {report.target:g})"))
        if report.speedup < report.target:
            pairs.append(("", "slower than asked for: run it again on a quieter machine, or ask for a little more"))
    if isinstance(shown, EndTokenReport):
        fewer = f"{shown.token_count_before:.1f} to {shown.token_count:.1f}"
        pairs.append(("left out", f"{', '.join(shown.dropped)}; tokens of a calibration text {fewer}"))
    else:
        if isinstance(shown, LayerReport):
            dropped = ", ".join(map(str, shown.dropped)) or "none"
            pairs.append(("layers", f"{', '.join(map(str, shown.kept))} kept, {dropped} dropped"))
        left = f"{shown.parameter_count / shown.parameter_count_before:.0%} of before"
        pairs.append(("parameters", f"{shown.parameter_count:,} in layers, {left}"))
    cosines = f"mean {shown.mean_cosine:.5f}, min {shown.min_cosine:.5f} on the calibration texts"
    pairs += [("cosine to before", cosines), ("pruned in", f"{seconds:.1f} s")]
    screen = console()
    screen.print(facts(pairs))
    if isinstance(shown, LayerReport):
        if shown.scores:
            rows = (
                (i, "kept" if i in shown.kept else "dropped", f"{score:.4f}") for i, score in enumerate(shown.scores)
            )
            screen.print(table(["layer", "", "score"], rows, right=["score"]))
    elif not isinstance(shown, EndTokenReport):
        sizes = enumerate(zip(shown.head_counts, shown.inner_counts, strict=True))
        right = ["heads", "intermediate size"]
        screen.print(table(["layer", *right], ((i, heads, inner) for i, (heads, inner) in sizes), right=right))
    screen.print(f"next: whit export {shell_word(out)} --out DIR", soft_wrap=True)
