"""``whit models``: what a server has loaded."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from whit.cli.command import command, json_option
from whit.cli.output import console, print_json, size, table
from whit.cli.remote import connect, server_options
from whit.client import Model


@command("models", examples=["whit models", "whit models --server 10.0.0.7:7600 --json"])
@server_options
@json_option
def models(server: str, timeout_s: float, as_json: bool) -> None:
    """List the models a server has loaded: dimensions, limits, prompts, whether they were verified there."""
    with connect(server, timeout_s) as client:
        found = client.models()
    if as_json:
        print_json(found)
    else:
        console().print(models_table(found))


def models_table(found: Sequence[Model]) -> Table:
    """The models as a table for people."""
    columns = ["model", "dtype", "dimensions", "max tokens", "pooling", "prompts", "size", "verified", "fingerprint"]
    rows = (
        [
            model.name,
            model.dtype,
            model.dimension_count,
            model.max_token_count,
            model.pooling,
            ", ".join(sorted(model.prompts)) or "-",
            size(model.size_bytes),
            "yes" if model.verified else "NO",
            model.fingerprint[:19],
        ]
        for model in found
    )
    return table(columns, rows, right=["dimensions", "max tokens", "size"])
