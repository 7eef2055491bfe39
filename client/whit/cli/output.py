"""What a person or a program sees: tables and JSON on stdout, progress and notices on stderr.

Texts from files and servers are shown through ``snippet``, which leaves nothing in them that a terminal would obey.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Task as ProgressTask
from rich.table import Table
from rich.text import Text

# Without a terminal there is no width to ask for; tables then go to files and logs, where 80 would cut too much.
PLAIN_WIDTH = 120
LEAST_COLUMN_WIDTH = 12  # of columns whose content is folded
STDOUT = "standard output"
LINE_EVERY_S = 60.0  # progress where there is no terminal


@contextmanager
def naming(place: str | Path) -> Iterator[None]:
    """Gives an ``OSError`` of writing the name of what was written to, which Python leaves out ("No space left on device")."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(place)
        raise


class _Console(Console):
    """Says where it could not print. A table that needs more than the terminal has runs over its edge: no column is lost."""

    def print(self, *objects: Any, **options: Any) -> None:
        with naming(STDOUT if self.file is sys.stdout else "standard error"):
            self.width = max(self.width, *map(_least_width, objects))
            super().print(*objects, **options)


def _least_width(shown: object) -> int:
    """Characters without which rich would leave out whole columns of a table."""
    return sum((column.min_width or 0) + 3 for column in shown.columns) if isinstance(shown, Table) else 0


def console(file: IO[str] | None = None) -> Console:
    """A console on stdout (or ``file``) that shows text as it is: no markup, no highlighting, no colours in a pipe."""
    file = file or sys.stdout
    width = None if file.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return _Console(file=file, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def notice(line: str) -> None:
    """Writes one line on stderr: something the user should know that is not the result."""
    sys.stderr.write(f"{line}\n")


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Prints one JSON document on stdout; ``indent=None`` gives one line, for output that is a stream of lines."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")  # if not, what it lacks is escaped
    text = json.dumps(jsonable(value), indent=indent, ensure_ascii=not is_unicode, allow_nan=False)
    with naming(STDOUT):
        sys.stdout.write(f"{text}\n")


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
    title: str = "",
) -> Table:
    """A table with one line of heads; columns named in ``right`` are numbers. These, the first and ``whole`` are never cut."""
    made = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        is_whole = position == 0 or column in (*right, *whole)
        justify: JustifyMethod = "right" if column in right else "left"
        made.add_column(column, justify=justify, no_wrap=is_whole, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return _bounded(made)


def facts(pairs: Iterable[tuple[str, object]], *, title: str = "") -> Table:
    """A two-column table of names and values, for one thing with many properties."""
    made = Table(box=None, title=title or None, title_justify="left", pad_edge=False, show_header=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(name, Text(str(value)))
    return _bounded(made)


def _bounded(made: Table) -> Table:
    """``made`` with a least width for each column."""
    for column in made.columns:
        widest = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
        column.min_width = widest if column.no_wrap else min(widest, LEAST_COLUMN_WIDTH)
    return made


def snippet(text: str, length: int = 90) -> str:
    """The start of ``text`` on one line, at most ``length`` characters, without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * length]).split())
    return line if len(line) <= length and len(text) <= 4 * length else line[: length - 1].rstrip() + "…"


def shell_word(path: str | Path) -> str:
    """A path as it is typed into a shell, with quotation marks where it needs them."""
    return shlex.quote(str(path))


def size(byte_count: int) -> str:
    """Bytes for a person: ``22.9 MB`` (decimal, as disks and downloads are counted)."""
    value = float(byte_count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def counted(number: int, noun: str) -> str:
    """A number of things: ``1 passage``, ``1,200 passages``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def progress() -> Progress:
    """A progress bar on stderr, gone when done; where stderr is no terminal, a line a minute. Use as a context manager."""
    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
    ]
    if sys.stderr.isatty():
        return Progress(*columns, console=console(sys.stderr), transient=True)
    return _Lines(*columns, console=console(sys.stderr), disable=True)


class _Lines(Progress):
    """Progress for log files: says where work that takes minutes is, so that it is not taken for stuck."""

    def __init__(self, *columns: ProgressColumn, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._last = time.monotonic()

    def update(self, task_id: TaskID, *args: Any, **kwargs: Any) -> None:
        super().update(task_id, *args, **kwargs)
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        now = time.monotonic()
        if now - self._last < LINE_EVERY_S:
            return
        self._last = now
        task = self._tasks[task_id]
        total = "" if task.total is None else f" of {task.total:,.0f}"
        line = f"{task.description}: {task.completed:,.0f}{total}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class _RateColumn(ProgressColumn):
    """Steps a second, where known."""

    def render(self, task: ProgressTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "")


def jsonable(value: Any) -> Any:
    """What ``json`` takes, from dataclasses, mappings, sequences, times and numpy scalars; not-a-number becomes null."""
    if dataclasses.is_dataclass(value):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, (datetime, Path)):
        return value.isoformat() if isinstance(value, datetime) else str(value)
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
