"""``whit info``: what a server is, what it accepts, and what it holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.table import Table

from whit.cli.command import command, json_option
from whit.cli.models import models_table
from whit.cli.output import console, counted, facts, jsonable, print_json, size, table
from whit.cli.remote import Server, server_options
from whit.client import Collection, Memory


@command("info", examples=["whit info", "whit info --json | jq .limits"])
@server_options
@json_option
def info(server: Server, as_json: bool) -> None:
    """Show a server's version, limits, providers, models and collections."""
    with server.connect() as client:
        about, collections = client.info(), client.collections()
    if as_json:
        print_json({**jsonable(about), "collections": collections})
        return
    out = console()
    pairs: list[tuple[str, object]] = [
        ("server", f"{server.address}, whit {about.version}, up {about.uptime_s:.0f} s"),
        ("workers", about.worker_count),
        ("providers", ", ".join(about.providers) or "none, no model needs onnxruntime"),
        *([("memory", _memory(about.memory))] if about.memory else []),
        *((name.replace("_", " "), f"{value:,}") for name, value in dataclasses.asdict(about.limits).items()),
    ]
    out.print(facts(pairs))
    out.print(models_table(about.models) if about.models else "no models")
    loaded = {model.fingerprint for model in about.models}
    out.print(collections_table(collections, loaded) if collections else "no collections")


def _memory(memory: Memory) -> str:
    used = f"{size(memory.used_byte_count)} of {size(memory.limit_byte_count)}"
    refused = f", {counted(memory.refused_count, 'request')} refused for it" if memory.refused_count else ""
    return f"{used}, pressure {memory.pressure}{refused}"


def collections_table(collections: Sequence[Collection], loaded: set[str]) -> Table:
    """The collections as a table for people; those of packages other than ``loaded`` take no texts, and are marked."""
    rows = (
        (
            c.name,
            f"{c.point_count:,}",
            c.model if c.fingerprint in loaded else f"{c.model} (package not loaded)",
            c.dimension_count,
            c.storage,
            f"{c.create_time:%Y-%m-%d %H:%M} UTC",
        )
        for c in collections
    )
    return table(
        ["collection", "points", "model", "dimensions", "storage", "made"], rows, right=["points", "dimensions"]
    )
