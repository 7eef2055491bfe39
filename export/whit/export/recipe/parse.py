"""Reads a recipe. Whatever is wrong is said with the file, the table and the key, and the nearest key that exists."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from whit.export.compile import ExportOptions
from whit.export.errors import CheckpointError
from whit.export.recipe.steps import STEPS
from whit.export.static import StaticOptions

_TOP = ("checkpoint", "sts", "step", "export", "static")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class RecipeError(CheckpointError):
    """A recipe cannot be read or run. The message names the file, the table and the key, and says what to do."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a recipe, ready to run: its name in ``STEPS`` and its options."""

    step: str
    options: Any


@dataclass(frozen=True, slots=True)
class Recipe:
    """A chain of steps over ``checkpoint`` that ends in an export, or in a static student."""

    file: Path
    checkpoint: Path
    stages: Sequence[Stage]
    export: ExportOptions | StaticOptions
    sts: Path | None = None  # sentence pairs with scores (TSV), on which every step is judged


def stage_name(number: int, step: str | None = None) -> str:
    """How messages name a step of a recipe."""
    return f"[[step]] number {number}" + (f" ({step})" if step else "")


def read_recipe(file: Path, checkpoint: Path | None = None) -> Recipe:
    """Reads a recipe.

    Paths in it are relative to the file, those that begin with a variable to the working directory. ``$NAME`` is an
    environment variable, ``$CHECKPOINT`` the checkpoint the recipe starts from.

    Args:
        file: the TOML file.
        checkpoint: takes the place of the recipe's own ``checkpoint``.

    Raises:
        RecipeError: it cannot be read, or a key is missing, unknown, or of the wrong type.
    """
    content = _load(file)
    reader = _Reader(file, file.parent, dict(os.environ))
    reader.refuse_unknown(content, _TOP, "the top of the file")
    if checkpoint is None:
        if "checkpoint" not in content:
            raise RecipeError(f'{file}: no checkpoint; give one on the command line, or with checkpoint = "FOLDER"')
        checkpoint = reader.value(content["checkpoint"], Path, "checkpoint")
    reader.variables["CHECKPOINT"] = str(checkpoint.resolve())
    tables = content.get("step", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise RecipeError(f"{file}: step must be a list of tables; begin each step with [[step]]")
    if not content.keys() & {"step", "export", "static"}:
        raise RecipeError(
            f"{file}: the recipe says nothing to do; give it a [[step]], or a table [export] or [static], which may be empty"
        )
    if "static" in content and "export" in content:
        raise RecipeError(f"{file}: a recipe ends in [export] or in [static]; leave out one of them")
    return Recipe(
        file=file,
        checkpoint=checkpoint,
        stages=tuple(_stage(reader, table, number) for number, table in enumerate(tables, start=1)),
        export=_package(reader, content),
        sts=reader.value(content["sts"], Path, "sts") if "sts" in content else None,
    )


def _load(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecipeError(f"{file} cannot be read ({error.strerror}); give a recipe, a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file} is not valid TOML: {error}; correct it there") from None


def _package(reader: _Reader, content: Mapping[str, Any]) -> ExportOptions | StaticOptions:
    if "static" in content:
        student: StaticOptions = reader.options(content["static"], StaticOptions, "[static]")
        return student
    options: ExportOptions = reader.options(content.get("export", {}), ExportOptions, "[export]")
    return options


def _stage(reader: _Reader, table: Mapping[str, Any], number: int) -> Stage:
    name = str(table.get("step", ""))
    if name not in STEPS:
        near = _nearest(name, STEPS)
        raise RecipeError(
            f"{reader.file}: {stage_name(number)}: step must be one of {', '.join(STEPS)}, got {name!r}{near}"
        )
    options = {key: value for key, value in table.items() if key != "step"}
    return Stage(name, reader.options(options, STEPS[name].load_options(), stage_name(number, name)))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Turns TOML tables into the options of a step, by the types of its fields."""

    file: Path
    folder: Path
    variables: dict[str, str]

    def options(self, table: Any, kind: type[Any], where: str) -> Any:
        """A table as a dataclass of ``kind``."""
        if not isinstance(table, dict):
            raise RecipeError(f"{self.file}: {where} must be a table, got {table!r}")
        hints = typing.get_type_hints(kind)
        self.refuse_unknown(table, [field.name for field in fields(kind)], where)
        missing = [
            f.name
            for f in fields(kind)
            if f.default is MISSING and f.default_factory is MISSING and f.name not in table
        ]
        if missing:
            raise RecipeError(f"{self.file}: {where} lacks the key {missing[0]!r}; add it")
        return kind(**{key: self.value(value, hints[key], f"{where}: {key}") for key, value in table.items()})

    def refuse_unknown(self, table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
        """Refuses keys that mean nothing."""
        for key in table:
            if key not in known:
                raise RecipeError(
                    f"{self.file}: {where}: unknown key {key!r}{_nearest(key, known)}; it may be {', '.join(known)}"
                )

    def value(self, value: Any, kind: Any, where: str) -> Any:
        """One value as the type of its field."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            (kind,) = (a for a in arguments if a is not type(None))
            return self.value(value, kind, where)
        if origin is typing.Literal and value in arguments:
            return value
        if origin in (tuple, list, Sequence) and isinstance(value, list):
            return tuple(self.value(item, arguments[0], where) for item in value)
        if origin in (dict, Mapping) and isinstance(value, dict):
            return {key: self.value(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
        if kind is Path and isinstance(value, str):
            return self._path(value, where)
        if kind is float and type(value) is int:
            return float(value)
        if kind in (int, float, str, bool) and type(value) is kind:
            return value
        raise RecipeError(f"{self.file}: {where} must be {_in_words(kind)}, got {value!r}; correct it there")

    def _path(self, text: str, where: str) -> Path:
        def look_up(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name not in self.variables:
                raise RecipeError(f"{self.file}: {where}: the environment variable {name} is not set; set it to a path")
            return self.variables[name]

        path = Path(_VARIABLE.sub(look_up, text)).expanduser()
        return path.absolute() if text.startswith("$") else self.folder / path


def _nearest(key: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _in_words(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) in (tuple, list, Sequence):
        return f"a list, each {_in_words(typing.get_args(kind)[0])}"
    if typing.get_origin(kind) in (dict, Mapping):
        return "a table"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path (text)"}
    return names.get(kind, str(kind))
