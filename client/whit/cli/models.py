"""``whit models``: what a server has loaded."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.table import Table

from whit.cli.command import command, json_option
from whit.cli.output import console, print_json, size, table
from whit.cli.remote import Server, server_options
from whit.client import Model

_SHOWN_TOKEN_COUNTS = (16, 128)


@command("models", examples=["whit models", "whit models --costs", "whit models --server 10.0.0.7:7600 --json"])
@click.option(
    "--costs", is_flag=True, help="Show what a micro-batch of each costs that machine, as the server predicts it."
)
@server_options
@json_option
def models(server: Server, costs: bool, as_json: bool) -> None:
    """List the models a server has loaded: what runs them, dimensions, limits, prompts, whether they were verified there.

    --costs shows the time of one worker that the server predicts: for a run, for each token and for each attention cell, and so
    for one text; how many micro-batches that rests on, and how far recent predictions were off. --json has it in any case.
    """
    with server.connect() as client:
        found = client.models()
    if as_json:
        print_json(found)
    else:
        console().print(costs_table(found) if costs else models_table(found))


def models_table(found: Sequence[Model]) -> Table:
    """The models as a table for people; --json has more."""
    has_depths = any(model.layer_counts for model in found)
    layers = ["layers"] if has_depths else []
    columns = ["model", "dtype", "provider", "dims", *layers, "tokens", "prompts", "size", "verified", "fingerprint"]
    rows = (
        [
            model.name,
            model.dtype,
            model.provider,
            model.dimension_count,
            *([", ".join(map(str, model.layer_counts)) or "all"] if has_depths else []),
            model.max_token_count,
            ", ".join(sorted(model.prompts)) or "-",
            size(model.size_bytes),
            "yes" if model.verified else "NO",
            model.fingerprint[:19],
        ]
        for model in found
    )
    return table(columns, rows, right=["dims", "tokens", "size"], whole=["provider"])


def costs_table(found: Sequence[Model]) -> Table:
    """What the models cost, as a table for people; dashes where that is not known yet."""
    texts = [f"{count} tokens ms" for count in (*_SHOWN_TOKEN_COUNTS, "max")]
    columns = ["model", "run ms", "token µs", "cell ns", *texts, "micro-batches", "error"]
    return table(columns, map(_costs_row, found), right=columns[1:])


def _costs_row(model: Model) -> list[object]:
    costs = model.costs
    if costs is None:
        return [model.name, *["-"] * 6, 0, "-"]
    counts = (*_SHOWN_TOKEN_COUNTS, model.max_token_count)
    texts = [costs.run_time_us + costs.token_time_us * n + costs.cell_time_us * n * n for n in counts]
    return [
        model.name,
        f"{costs.run_time_us / 1e3:.2f}",
        f"{costs.token_time_us:.1f}",
        f"{costs.cell_time_us * 1e3:.1f}",
        *(f"{text / 1e3:.1f}" for text in texts),
        f"{costs.run_count:,}",
        "-" if costs.relative_error is None else f"{costs.relative_error:.0%}",
    ]
