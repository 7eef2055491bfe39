"""``whit export --recipe``: runs a chain of steps and prints what each did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from whit.cli.output import console, facts, jsonable, print_json, shell_word, size, table

if TYPE_CHECKING:
    from whit.export.recipe import RecipeReport


def export_recipe(
    file: Path, checkpoint: Path | None, out: Path, work: Path | None, name: str | None, as_json: bool
) -> None:
    """Runs the recipe ``file``; its checkpoints and reports go to ``work``, by default beside ``out``."""
    from whit.cli.export import note, stages
    from whit.export.recipe import read_recipe, run_recipe
    from whit.export.sealing import name_from

    recipe = read_recipe(file, checkpoint)
    recipe = replace(
        recipe, export=replace(recipe.export, name=name or recipe.export.name or name_from(out.resolve().name))
    )
    with stages() as show:
        report = run_recipe(recipe, out, work or out.with_name(f"{out.name}-steps"), show)
    note(report.export.get("unused_options", ()), report.export.get("notes", ()))
    if as_json:
        print_json(jsonable(report))
        return
    _print(report)


def _print(report: RecipeReport) -> None:
    kept = [step.step for step in report.steps if not step.ran]
    pairs: list[tuple[str, object]] = [("package", report.package), ("steps and reports", report.work)]
    if kept:
        pairs.append(("kept from before", ", ".join(kept)))
    console().print(facts(pairs))
    rows = (
        (
            point.name,
            size(point.size_bytes),
            f"{point.speed_ratio:.2f}",
            f"{point.agreement:.2f}",
            "-" if point.sts is None else f"{point.sts:.2f}",
        )
        for point in report.points
    )
    head = ["stage", "size", "speed", "rank agreement", "STS"]
    console().print(table(head, rows, right=head[1:]))
    console().print(
        f"next: open {shell_word(f'{report.work}/report.html')}, or whit serve --models {shell_word(report.package)}",
        soft_wrap=True,
    )
