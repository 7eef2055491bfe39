"""``whit embed``: texts from the command line, a file or standard input to vectors."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from whit.cli.command import Count, Failure, Utf8, command, json_option
from whit.cli.output import console, counted, naming, notice, print_json, progress, snippet, table
from whit.cli.passages import BadLine, is_text, read_lines
from whit.cli.remote import Server, choose_model, server_options, why
from whit.client import EmbedResult

ENCODINGS = ("float32", "float16", "int8", "binary", "4bit", "3bit", "2bit")
SHOWN_VALUE_COUNT = 4
STDIN = "standard input"


@command(
    "embed",
    examples=[
        "whit embed 'a text' 'another'",
        "whit embed --file texts.txt --out vectors.npy",
        "cat texts.txt | whit embed --encoding int8 --json -",
    ],
)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read texts from this file, one a line; empty lines are left out.",
)
@click.option("--model", type=Utf8(), help="Model to use. Default: the only one that the server has.")
@click.option("--role", type=Utf8(), help="Role of the prompt put before each text, such as query or document.")
@click.option("--instruction", type=Utf8(), help="Free instruction put before each text.")
@click.option(
    "--encoding", type=click.Choice(ENCODINGS), default="float32", show_default=True, help="Form of the vectors."
)
@click.option(
    "--dimensions",
    "dimension_count",
    type=Count(),
    help="Keep this many values of each vector. Default: all.",
)
@click.option(
    "--layers",
    "layer_count",
    type=Count(),
    help="Compute only so many layers, which the model must offer (whit models). Default: all.",
)
@click.option(
    "--on-overflow",
    type=click.Choice(["error", "truncate"]),
    default="error",
    show_default=True,
    help="What to do with a text of more tokens than the model reads.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the vectors to this .npy file, one row a text.",
)
@server_options
@json_option
def embed(
    texts: tuple[str, ...],
    path: Path | None,
    model: str | None,
    role: str | None,
    instruction: str | None,
    encoding: str,
    dimension_count: int | None,
    layer_count: int | None,
    on_overflow: str,
    out: Path | None,
    server: Server,
    as_json: bool,
) -> None:
    """Turn each TEXT into a vector; "-" reads texts from standard input, one a line.

    Prints a table, or with --json one JSON object a line: text, token_count, truncated, vector. int8 and binary vectors are codes,
    as numpy sees them. 2bit, 3bit and 4bit vectors are planes of bits and have scales beside them; in a .npy file the scales of a
    row follow its planes, 4 bytes each.
    """
    if role and instruction:
        raise click.UsageError("Give --role or --instruction, not both: each is what is put before the text.")
    if out and not out.absolute().parent.is_dir():
        raise click.UsageError(f"--out: the directory {out.parent} is not there; make it first.")
    if out and path and out.exists() and out.samefile(path):
        raise click.UsageError("--out is the file that --file reads; name another.")
    given = _texts(texts, path)
    with server.connect() as client, progress() as bar:
        task = bar.add_task("embedding", total=len(given))
        results = client.embed_stream(
            given,
            model=choose_model(client, model),
            role=role,
            instruction=instruction,
            encoding=encoding,
            dimension_count=dimension_count,
            layer_count=layer_count,
            on_overflow=on_overflow,
            on_error="return",
        )
        rows = []
        for row in _rows(given, results):
            bar.advance(task)
            if row.error is None and as_json:
                print_json(_as_json(row), indent=None)
            if row.error is not None:
                notice(f"text {row.number}: {why(row.error)}")
            rows.append(row)
    failed_count = sum(row.error is not None for row in rows)
    if out and not failed_count:
        _write_npy(out, rows)
    elif not as_json and not out and failed_count < len(rows):
        console().print(_table(rows))
    if failed_count:
        unwritten = f", so {out} was not written" if out else ""
        raise Failure(f"{failed_count} of {counted(len(rows), 'text')} failed{unwritten}")


@dataclass(frozen=True, slots=True)
class _Row:
    """One text and what became of it; ``vector`` is a row of codes or floats."""

    number: int  # from 1
    text: str
    token_count: int
    truncated: bool
    vector: NDArray[np.generic]
    scales: NDArray[np.float32] | None  # of residual codes, which mean nothing without
    error: object = None


def _rows(texts: list[str], results: Iterable[EmbedResult]) -> Iterator[_Row]:
    number = 0
    for result in results:
        for row, item in enumerate(result.items):
            number += 1
            vector = result.vectors[row]
            scales = result.scales[row] if result.encoding.bits and result.scales is not None else None
            yield _Row(number, texts[number - 1], item.token_count, item.truncated, vector, scales, item.error)


def _as_json(row: _Row) -> dict[str, Any]:
    found = {
        "text": row.text,
        "token_count": row.token_count,
        "truncated": row.truncated,
        "vector": row.vector.tolist(),
    }
    return found if row.scales is None else found | {"scales": row.scales.tolist()}


def _table(rows: list[_Row]) -> Table:
    columns = ["text", "tokens", "dimensions", "first values"]
    return table(
        columns,
        (
            (
                snippet(row.text, 60),
                f"{row.token_count}{' (cut)' if row.truncated else ''}",
                row.vector.size,
                " ".join(
                    f"{value:+.4f}" if row.vector.dtype.kind == "f" else str(value)
                    for value in row.vector.flat[:SHOWN_VALUE_COUNT]
                ),
            )
            for row in rows
            if row.error is None
        ),
        right=["tokens", "dimensions"],
    )


def _write_npy(path: Path, rows: list[_Row]) -> None:
    matrix = np.stack([row.vector for row in rows])
    scales = [row.scales for row in rows if row.scales is not None]
    if scales:
        matrix = np.hstack([matrix.reshape(len(rows), -1), np.stack(scales).astype("<f4").view(np.uint8)])
    with naming(path), path.open("wb") as file:
        # numpy writes past Python's file where it can, and then does not say why it could not.
        np.save(SimpleNamespace(write=file.write), matrix, allow_pickle=False)


def _texts(arguments: tuple[str, ...], path: Path | None) -> list[str]:
    """Every text asked for, in the order of the command line and then of the file."""
    texts: list[str] = []
    for number, text in enumerate(arguments, 1):
        if text == "-":
            texts += _lines(sys.stdin.buffer, STDIN)
        elif not is_text(text):
            raise click.UsageError(f"TEXT {number} is not UTF-8.")
        else:
            texts.append(text)
    if path:
        with naming(path), path.open("rb") as file:
            texts += _lines(file, str(path))
    if not texts and (arguments or path):
        raise Failure(f"{path or STDIN} has no text; give one a line")
    if not texts:
        raise click.UsageError("Give a TEXT, --file FILE, or - for standard input.")
    return texts


def _lines(file: Iterable[bytes], name: str) -> Iterator[str]:
    for entry in read_lines(file, name):
        if isinstance(entry, BadLine):
            raise Failure(f"{entry.source}: {entry.why.partition(';')[0]}; write the file as UTF-8")
        if entry[1].strip():
            yield entry[1]
