"""``whit search``: one question to one collection."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click
from rich.table import Table

from whit.cli.command import Count, Failure, Utf8, command, json_option
from whit.cli.output import console, print_json, snippet, table
from whit.cli.remote import Server, check_collection, server_options
from whit.client import Client, Hit, NotFound


@command(
    "search",
    examples=[
        "whit search notes 'how do I undo this?'",
        "whit search notes 'how do I undo this?' --limit 3 --json | jq '.hits[0].text'",
    ],
)
@click.argument("collection", callback=check_collection)
@click.argument("question", type=Utf8())
@click.option("--limit", type=Count(), default=10, show_default=True, help="Show at most this many points.")
@click.option(
    "--threshold",
    type=click.FloatRange(-1, 1),
    help="Leave out points with a lower score (cosine, -1 to 1). Default: none.",
)
@click.option("--exact", is_flag=True, help="Compare with every vector instead of searching the graph: exact, slower.")
@click.option(
    "--role", type=Utf8(), help="Role of the prompt put before the question. Default: query, where the model has it."
)
@click.option(
    "--on-overflow",
    type=click.Choice(["error", "truncate"]),
    default="error",
    show_default=True,
    help="What to do with a question of more tokens than the model reads.",
)
@server_options
@json_option
def search(
    collection: str,
    question: str,
    limit: int,
    threshold: float | None,
    exact: bool,
    role: str | None,
    on_overflow: str,
    server: Server,
    as_json: bool,
) -> None:
    """Find the points of COLLECTION that are nearest to QUESTION, best first."""
    if not question.strip():
        raise click.UsageError("QUESTION is empty.")
    with server.connect() as client:
        start = time.perf_counter()
        try:
            hits = client.search(
                collection,
                question,
                limit=limit,
                score_threshold=threshold,
                exact=exact,
                role=role,
                on_overflow=on_overflow,
            )
        except NotFound:
            raise Failure(_not_found(client, collection)) from None
        seconds = time.perf_counter() - start
    if as_json:
        found = [{"id": h.id, "score": round(h.score, 6), "text": h.text, "metadata": h.metadata} for h in hits]
        print_json({"collection": collection, "question": question, "hits": found, "time_ms": round(1000 * seconds, 3)})
        return
    out = console()
    if hits:
        out.print(hits_table(hits))
    out.print(f"{len(hits)} found in {1000 * seconds:.1f} ms{' (exact)' if exact else ''}")


def _not_found(client: Client, name: str) -> str:
    names = ", ".join(collection.name for collection in client.collections())
    there = (
        f"the server has: {names}"
        if names
        else "the server has none; make one with: whit index --collection NAME FILES"
    )
    return f"there is no collection {name}; {there}"


def hits_table(hits: Sequence[Hit]) -> Table:
    """Hits as a table for people, best first."""
    return table(["score", "id", "text", "metadata"], (hit_row(hit) for hit in hits), right=["score"])


def hit_row(hit: Hit) -> tuple[str, str, str, str]:
    """One hit: score, id, the start of its text, metadata as ``name=value``."""
    metadata = ", ".join(f"{name}={value}" for name, value in hit.metadata.items())
    return f"{hit.score:.3f}", snippet(hit.id, 60), snippet(hit.text, 120), snippet(metadata, 60)
