"""``whit index``: files to points, streamed."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.progress import Progress, TaskID

from whit.cli.command import Failure, Utf8, command, json_option
from whit.cli.output import console, counted, facts, jsonable, print_json, progress
from whit.cli.passages import SUFFIXES, BadLine, Passage, find_files, id_stem, read_passages
from whit.cli.remote import Server, check_collection, choose_model, server_options, why
from whit.client import Client, Collection, NotFound, Point
from whit.contract.manifest import NGRAM_TABLE

# English prose has about 3.8 characters a token, text with much code or many numbers fewer: most passages then fit.
CHARACTERS_A_TOKEN = 3
# A token may also be an n-gram: of two lengths there are about 1.5 a character, of three 2.
NGRAMS_A_CHARACTER = 2
SHOWN_FAILURE_COUNT = 20
DEFAULT_STORAGE = "float32"


@dataclass(slots=True)
class Tally:
    """What has become of everything read so far."""

    written_count: int = 0
    truncated_count: int = 0
    removed_count: int = 0
    file_count: int = 0
    failures: list[BadLine] = field(default_factory=list)


@command(
    "index",
    examples=[
        "whit index --collection notes notes/ README.md",
        "whit index --collection faq --model all-MiniLM-L6-v2 --storage int8 faq.jsonl",
    ],
    exit_codes={1: "failed, or some passages were not written (each is reported)"},
)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--collection", required=True, callback=check_collection, help="Collection to write to; made if it is missing."
)
@click.option("--model", type=Utf8(), help="Model of a new collection. Default: the only one that the server has.")
@click.option(
    "--storage",
    type=click.Choice(["float32", "float16", "int8", "4bit", "3bit", "2bit"]),
    help=f"How a new collection stores vectors. Default: {DEFAULT_STORAGE}.",
)
@click.option(
    "--role", type=Utf8(), help="Role of the prompt put before each text. Default: document, where the model has it."
)
@click.option(
    "--on-overflow",
    type=click.Choice(["truncate", "error"]),
    default="truncate",
    show_default=True,
    help="What to do with a passage of more tokens than the model reads: cut what it reads (the whole text is stored) or refuse it.",
)
@click.option(
    "--passage-characters",
    type=click.IntRange(min=50),
    help=f"Split .txt and .md into passages of at most this many characters. Default: {CHARACTERS_A_TOKEN} a token the model reads, or one for two n-grams.",
)
@server_options
@json_option
def index(
    files: tuple[Path, ...],
    collection: str,
    model: str | None,
    storage: str | None,
    role: str | None,
    on_overflow: str,
    passage_characters: int | None,
    server: Server,
    as_json: bool,
) -> None:
    """Split FILES into passages and write them to a collection. A directory stands for all files in it that can be read.

    .txt gives a passage for each paragraph, .md as many paragraphs as fit below the same heading, .jsonl one for each line:
    {"id": "…", "text": "…"}, every other name is metadata. Ids of the others are PATH#N, so indexing a file again replaces
    what it wrote before. A line that cannot be read is reported and left out.
    """
    unknown = next((path for path in files if path.is_file() and path.suffix.lower() not in SUFFIXES), None)
    if unknown:
        raise click.UsageError(f"{unknown}: only {', '.join(SUFFIXES)} can be read; rename it or convert it.")
    if next(find_files(list(files)), None) is None:
        raise Failure(f"{', '.join(map(str, files))}: no {', '.join(SUFFIXES)} file in there")
    start, tally = time.perf_counter(), Tally()
    with server.connect() as client, progress() as bar:
        target = find_or_create(client, collection, model, storage)
        limit = passage_limit(client, target)
        character_count = passage_characters or limit
        ends: dict[str, int] = {}
        passages = _read(files, character_count, tally, ends, bar)
        task = bar.add_task("indexing", total=None)
        write(client, collection, passages, tally, (bar, task), role=role, on_overflow=on_overflow)
        if target.point_count:
            tally.removed_count = sum(_remove_tail(client, collection, stem, count) for stem, count in ends.items())
        total = client.count(collection)
    seconds = time.perf_counter() - start
    _report(collection, tally, seconds, total, as_json=as_json)
    if tally.failures:
        raise Failure(f"{refused(tally)}; correct them and index again")


def refused(tally: Tally) -> str:
    """How many passages were not written, and which was the first; there must be one."""
    first = tally.failures[0]
    verb = "was" if len(tally.failures) == 1 else "were"
    return f"{counted(len(tally.failures), 'passage')} {verb} not written, the first: {first.source}: {first.why}"


def find_or_create(client: Client, name: str, model: str | None, storage: str | None) -> Collection:
    """The collection, made if it is missing.

    Raises:
        Failure: it is there, but with another model or storage than asked for; or it is not, no model was given and the server
            has not exactly one.
    """
    try:
        found = client.collection(name)
    except NotFound:
        chosen = choose_model(client, model)
        return client.create_collection(name, model=chosen, storage=storage or DEFAULT_STORAGE, exist_ok=True)
    if model is not None and found.model != model:
        raise Failure(f"collection {name} was made with model {found.model}, not {model}; use another collection")
    if storage and found.storage != storage:
        raise Failure(
            f"collection {name} stores {found.storage}, not {storage}; leave --storage out or use another collection"
        )
    return found


def passage_limit(client: Client, collection: Collection) -> int:
    """Characters of a passage that the collection's model most likely reads whole.

    Raises:
        Failure: the server has not loaded the package that the collection was made with, under whatever name.
    """
    model = next((m for m in client.models() if m.fingerprint == collection.fingerprint), None)
    if model is None:
        raise Failure(
            f"collection {collection.name} was made with model {collection.model} of fingerprint "
            f"{collection.fingerprint[:19]}…, which the server has not loaded; serve that package, or index into a new collection"
        )
    if model.architecture == NGRAM_TABLE:
        return max(model.max_token_count // NGRAMS_A_CHARACTER, 50)
    return CHARACTERS_A_TOKEN * max(model.max_token_count, 32)


def write(
    client: Client,
    collection: str,
    passages: Iterable[Passage],
    tally: Tally,
    bar: tuple[Progress, TaskID],
    *,
    role: str | None = None,
    on_overflow: str = "truncate",
) -> None:
    """Streams ``passages`` into the collection and counts in ``tally`` what became of each."""
    sent: deque[str] = deque()  # where the points not yet answered came from; answers come in the same order

    def points() -> Iterator[Point]:
        for passage in passages:
            sent.append(passage.source)
            yield Point(id=passage.id, text=passage.text, metadata=dict(passage.metadata))

    results = client.upsert_stream(collection, points(), role=role, on_overflow=on_overflow, on_error="return")
    for result in results:
        for item in result.items:
            source = sent.popleft()
            if item.error is None:
                tally.written_count += 1
                tally.truncated_count += item.truncated
            else:
                fail(tally, BadLine(source, why(item.error)), bar[0])
        shown = f"indexing, {len(tally.failures):,} not written" if tally.failures else "indexing"
        bar[0].update(bar[1], advance=len(result.items), description=shown)


def fail(tally: Tally, failure: BadLine, bar: Progress) -> None:
    """Counts a failure, and prints it on stderr while there are few."""
    tally.failures.append(failure)
    if len(tally.failures) <= SHOWN_FAILURE_COUNT:
        bar.console.print(f"{failure.source}: {failure.why}", soft_wrap=True)
    elif len(tally.failures) == SHOWN_FAILURE_COUNT + 1:
        bar.console.print("more failures are counted, not shown; --json lists them all", soft_wrap=True)


def _read(
    files: Iterable[Path], character_count: int, tally: Tally, ends: dict[str, int], bar: Progress
) -> Iterator[Passage]:
    """The passages of all files; what cannot be read is reported.

    ``ends`` gets the number of passages of each .txt and .md that was read whole: what came after them before is gone.
    """
    ids: set[str] = set()
    for path in {id_stem(path): path for path in find_files(list(files))}.values():
        tally.file_count += 1
        count, whole = 0, True
        try:
            for found in read_passages(path, character_count):
                if not isinstance(found, BadLine) and found.id in ids:
                    found = BadLine(found.source, f"id {found.id!r} was used before in this run; the first is kept")
                if isinstance(found, BadLine):
                    whole = False
                    fail(tally, found, bar)
                else:
                    ids.add(found.id)
                    count += 1
                    yield found
        except OSError as error:
            whole = False
            fail(tally, BadLine(str(path), f"cannot be read ({error.strerror})"), bar)
        if whole and path.suffix.lower() != ".jsonl":
            ends[id_stem(path)] = count


def _remove_tail(client: Client, collection: str, stem: str, count: int) -> int:
    """Deletes what an earlier, longer version of a file left after its passage ``count``; returns how many points went."""
    removed, step = 0, 100
    for first in itertools.count(count + 1, step):
        gone = client.delete(collection, [f"{stem}#{number}" for number in range(first, first + step)]).deleted_count
        removed += gone
        if gone == 0:
            break
    return removed


def _report(collection: str, tally: Tally, seconds: float, total: int, *, as_json: bool) -> None:
    rate = tally.written_count / seconds
    if as_json:
        counts = jsonable(tally)
        print_json(
            {
                "collection": collection,
                **counts,
                "point_count": total,
                "time_s": round(seconds, 3),
                "rate_per_s": round(rate, 1),
            }
        )
        return
    pairs: list[tuple[str, object]] = [
        (
            "written",
            f"{counted(tally.written_count, 'passage')} from {counted(tally.file_count, 'file')} in {seconds:.1f} s ({rate:,.0f}/s)",
        ),
        ("cut to fit", f"{tally.truncated_count:,} (the model read their first part; the whole text is stored)"),
        ("removed", f"{counted(tally.removed_count, 'passage')} no longer in the files"),
        ("failed", f"{len(tally.failures):,}"),
        ("collection", f"{collection} now has {counted(total, 'point')}"),
    ]
    optional = {"cut to fit": tally.truncated_count, "removed": tally.removed_count, "failed": len(tally.failures)}
    console().print(facts(pair for pair in pairs if optional.get(pair[0], 1)))
