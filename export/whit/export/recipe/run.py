"""Runs a recipe: each step once, into a work folder; then the export, the measurements and the report.

A step's outcome lies under a name with the hash of everything that it depends on (the checkpoint it starts from, its
options, the content of the files they name, the version of whit), so a run that was interrupted, or whose later steps were
edited, goes on where its outcomes are still good.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from whit.contract.manifest import sha256_of
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.errors import CheckpointError
from whit.export.evaluate import read_sts
from whit.export.families import encoder_weights
from whit.export.recipe.measure import Point, measure_stages
from whit.export.recipe.page import page
from whit.export.recipe.parse import Recipe, RecipeError, Stage, stage_name
from whit.export.recipe.steps import STEPS, Progress
from whit.export.report import Report
from whit.export.sealing import check_out
from whit.export.static import StaticReport, make_static
from whit.export.turns import turn

_MADE = ("cache",)  # options that name what need not be there yet


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """One step: what it was asked, what it said of itself, where its checkpoint lies; ``ran`` False: kept from before."""

    step: str
    options: Mapping[str, Any]
    report: Mapping[str, Any]
    folder: str
    ran: bool


@dataclass(frozen=True, slots=True)
class RecipeReport:
    """Outcome of a recipe. ``points`` are the checkpoint, each step and the package, in that order."""

    recipe: str
    package: str
    work: str
    steps: Sequence[StepOutcome]
    points: Sequence[Point]
    export: Mapping[str, Any]


def run_recipe(recipe: Recipe, out: Path, work: Path, progress: Progress = lambda *_: None) -> RecipeReport:
    """Runs ``recipe`` and writes the package ``out`` and, in ``work``, checkpoints, ``report.json`` and ``report.html``.

    Raises:
        CheckpointError: a step or the export refuses its input; what was done before it is kept in ``work``.
    """
    _check(recipe, out)
    if work.resolve().is_relative_to(out.resolve()):
        raise CheckpointError(f"{work} lies in {out}, which is replaced at the end; choose another --work")
    _make(work)
    folder, key = recipe.checkpoint, _hash_of(recipe.checkpoint)
    outcomes = []
    for number, stage in enumerate(recipe.stages, start=1):
        key = _key(key, stage)
        try:
            outcome = _run_step(stage, folder, work / f"{number:02}-{stage.step}-{key[:12]}", progress)
        except CheckpointError as error:
            raise RecipeError(f"{recipe.file}: {stage_name(number, stage.step)}: {error}") from error
        outcomes.append(outcome)
        folder = Path(outcome.folder)
    made = _package(recipe, folder, out, progress)
    names = [recipe.checkpoint.resolve().name, *(stage.step for stage in recipe.stages)]
    folders = [recipe.checkpoint, *(Path(outcome.folder) for outcome in outcomes)]
    points = measure_stages(dict(zip(_distinct(names), folders, strict=True)), out, recipe.sts, progress)
    report = RecipeReport(
        recipe=str(recipe.file),
        package=str(out),
        work=str(work),
        steps=outcomes,
        points=points,
        export=made.lasting(),
    )
    content = asdict(report)
    _write(work / "report.json", json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    _write(work / "report.html", page(content))
    return report


def _package(recipe: Recipe, folder: Path, out: Path, progress: Progress) -> Report | StaticReport:
    try:
        if isinstance(recipe.export, ExportOptions):
            return compile_checkpoint(folder, out, recipe.export, progress)
        return make_static(folder, out, recipe.export, progress)
    except CheckpointError as error:
        raise RecipeError(f"{recipe.file}: {_package_table(recipe)}: {error}") from error


def _package_table(recipe: Recipe) -> str:
    return "[export]" if isinstance(recipe.export, ExportOptions) else "[static]"


def _check(recipe: Recipe, out: Path) -> None:
    """Refuses now what would be refused after an hour: a checkpoint, an option, a file or a place that cannot be used."""
    encoder_weights(read_checkpoint(recipe.checkpoint))
    check_out(out)
    if recipe.sts:
        read_sts(recipe.sts)
    tables = [(stage_name(number, stage.step), stage.options) for number, stage in enumerate(recipe.stages, start=1)]
    for table, options in [*tables, (_package_table(recipe), recipe.export)]:
        check = getattr(options, "check", lambda: None)  # of what needs no checkpoint; not all steps have such options
        try:
            check()
        except CheckpointError as error:
            raise RecipeError(f"{recipe.file}: {table}: {error}") from error
        for option in fields(options):
            value = getattr(options, option.name)
            for path in value if isinstance(value, tuple) else (value,):
                if isinstance(path, Path) and option.name not in _MADE and not path.exists():
                    raise RecipeError(f"{recipe.file}: {table}: {option.name}: {path} does not exist")


def _run_step(stage: Stage, source: Path, out: Path, progress: Progress) -> StepOutcome:
    done = out.parent / f"{out.name}.json"  # written last: it says that the folder is whole
    options = _plain(stage.options)
    with turn(done, waiting=lambda: progress(f"wait for another run of this {stage.step}", 0, 1)):
        if done.is_file() and out.is_dir():
            return StepOutcome(stage.step, options, json.loads(done.read_text(encoding="utf-8")), str(out), ran=False)
        report = _plain(STEPS[stage.step].load()(source, out, stage.options, progress))
        _write(done, json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        return StepOutcome(stage.step, options, report, str(out), ran=True)


def _key(before: str, stage: Stage) -> str:
    names = [field.name for field in fields(stage.options) if field.name not in STEPS[stage.step].incidental]
    decisive = {name: _content(getattr(stage.options, name)) for name in names}
    content = [metadata.version("whit"), before, stage.step, decisive]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(value: Any) -> Any:
    """An option's value; of a path, what it leads to: another text is another outcome, the same one elsewhere is not."""
    if isinstance(value, tuple):
        return [_content(item) for item in value]
    return _hash_of(value) if isinstance(value, Path) else _plain(value)


def _hash_of(path: Path) -> str:
    """Of a file, or of a folder's files and their names; a path that is not there has a hash too: the step refuses it."""
    if not path.is_dir():
        return sha256_of(path) if path.is_file() else ""
    found = (Path(folder, name) for folder, _, names in os.walk(path, followlinks=True) for name in names)
    files = sorted(file for file in found if file.is_file())
    return hashlib.sha256("".join(f"{f.relative_to(path)} {sha256_of(f)}\n" for f in files).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A dataclass as JSON can hold it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else value


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number where one comes again."""
    return [f"{name} {names[:i].count(name) + 1}" if name in names[:i] else name for i, name in enumerate(names)]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written ({error.strerror}); choose another --work") from None


def _write(path: Path, text: str) -> None:
    """Writes a file whole: a run may be stopped at any time."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # recipes may share the folder
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror}); free space or choose another --work, then run it again"
        ) from None
