"""``whit load``: requests at a given rate, whether the server keeps up or not, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from whit.cli import load_plan as plan
from whit.cli.command import Amount, Failure, Utf8, command, json_option
from whit.cli.load_calls import Calls, encode_request
from whit.cli.output import console, counted, notice, print_json, progress, table
from whit.cli.passages import BadLine, read_lines
from whit.cli.remote import Server, choose_model, server_options
from whit.server.event_loop import run_async

SENTENCES = (
    "The parcel left the depot on Tuesday.",
    "How do I undo the last commit?",
    "Refund not received",
    "A man is playing a guitar on the pavement outside the station.",
    "Water boils at a lower temperature in the mountains than at the coast.",
    "error: connection reset by peer",
    "Which of these plans includes support at the weekend, and what does it cost for a team of five?",
    "Two dogs run through the shallow water along the beach.",
    "The committee will publish its findings in the spring.",
    "best running shoes for flat feet",
    "The valve has to be replaced every four thousand hours, or sooner where the pressure is seen to fall.",
    "She read the letter twice before she answered it.",
    "Reset the device by holding both buttons for ten seconds until the light turns green.",
    "opening hours",
    "Prices rose faster in the cities than in the country last year.",
    "Several readers wrote to say that the recipe works just as well with oat milk.",
)

FALLS_BEHIND = 0.9
SWEEP_LIMIT = 12
PREPARED_TEXTS = 65_536
REQUEST_LIMIT = 10_000_000  # at one rate: each outcome is kept


@command(
    "load",
    examples=[
        "whit load --rate 200 --duration-s 30",
        "whit load --rate 100 --rate 200 --rate 400 --deadline-ms 250 --json",
        "whit load --rate 100 --sweep 1.5 --file texts.txt --texts-per-request 8",
    ],
)
@click.option(
    "--rate",
    "rates",
    type=Amount(),
    multiple=True,
    default=(50.0,),
    help="Requests a second, on average (Poisson arrivals). Several: repeat it. Default: 50.",
)
@click.option(
    "--sweep",
    "factor",
    type=click.FloatRange(min=1, min_open=True),
    metavar="FACTOR",
    help=f"Go on from the last rate times FACTOR, until less than {FALLS_BEHIND:.0%} is answered in time, {SWEEP_LIMIT} rates at most.",
)
@click.option(
    "--duration-s",
    type=Amount(),
    default=10.0,
    show_default=True,
    help="Seconds at each rate.",
)
@click.option(
    "--deadline-ms",
    type=Amount(),
    default=1000.0,
    show_default=True,
    help="What counts as in time; it runs from the moment at which a request is due, and the server is told it.",
)
@click.option(
    "--texts-per-request", type=click.IntRange(min=1), default=1, show_default=True, help="Texts in each request."
)
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Texts to send, one a line. Default: some short sentences.",
)
@click.option("--model", type=Utf8(), help="Model to use. Default: the only one that the server has.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the arrivals and the texts.")
@server_options
@json_option
def load(
    rates: tuple[float, ...],
    factor: float | None,
    duration_s: float,
    deadline_ms: float,
    texts_per_request: int,
    path: Path | None,
    model: str | None,
    seed: int,
    server: Server,
    as_json: bool,
) -> None:
    """Send Embed requests at a given rate and show how many were answered in time, and how fast.

    The load is open: requests are sent when they are due, whether or not earlier ones were answered, and never again after a
    failure. Latencies run from the moment at which a request was due, so the percentiles hide no waiting. Texts longer than the model
    reads are cut.
    """
    if max(rates) * duration_s > REQUEST_LIMIT:
        raise click.UsageError(
            f"{max(rates):g} requests/s for {duration_s:g} s are more than {REQUEST_LIMIT:,}; lower --rate or --duration-s."
        )
    texts = _texts(path)
    with server.connect() as client:
        model = choose_model(client, model)
        limit = client.info().limits.batch_item_count
        if texts_per_request > limit:
            raise Failure(
                f"--texts-per-request: a request to this server has at most {limit:,} texts (batch_item_count); got {texts_per_request:,}"
            )
        client.embed(texts[:1], model=model, on_overflow="truncate")  # a wrong model is one error here, not thousands
    target = Target(server, model, deadline_ms / 1e3, texts_per_request)
    reports: list[plan.Report] = []
    with progress() as bar:
        for rate in _rates(rates, factor, reports):
            task = bar.add_task(f"{rate:g} requests/s", total=None)
            reports.append(run_async(measure(target, texts, rate, duration_s, seed)))
            bar.remove_task(task)
    for report in reports:
        _warn(report, deadline_ms)
    if as_json:
        print_json(
            {"model": model, "deadline_ms": deadline_ms, "texts_per_request": texts_per_request, "rates": reports}
        )
    else:
        console().print(load_table(reports, deadline_ms))


class Target:
    """Where the requests go and what they are: server, model, ``deadline_s`` and texts in each."""

    def __init__(self, server: Server, model: str, deadline_s: float, texts_per_request: int) -> None:
        self.server, self.model, self.deadline_s, self.texts_per_request = server, model, deadline_s, texts_per_request


async def measure(target: Target, texts: Sequence[str], rate: float, duration_s: float, seed: int) -> plan.Report:
    """Sends what is due at ``rate`` for ``duration_s`` seconds, waits for the last answer, and sums up."""
    arrivals = plan.arrival_times(rate, duration_s, seed)
    chosen = plan.batches(texts, target.texts_per_request, seed)
    # Made before the first is due, and sent again from the start where these do not last.
    count = min(len(arrivals), -(-PREPARED_TEXTS // target.texts_per_request))
    requests = [encode_request(target.model, batch) for batch in islice(chosen, count)]
    async with Calls(target.server.address, target.server.credentials) as calls:
        outcomes = await _send(calls, target.deadline_s, arrivals, cycle(requests))
    return plan.summarize(outcomes, rate=rate, duration_s=duration_s, texts_per_request=target.texts_per_request)


async def _send(
    calls: Calls, deadline_s: float, arrivals: NDArray[np.float64], requests: Iterator[bytes]
) -> list[plan.Outcome]:
    """Every request in a task of its own, started when it is due; never waits for an answer before the next."""
    clock = asyncio.get_running_loop().time
    start = clock()

    async def one(due: float, request: bytes) -> plan.Outcome:
        lag = clock() - due
        status, retry_after_s = plan.NOT_SENT, None
        if lag < deadline_s:
            status, retry_after_s = await calls.embed(request, deadline_s - lag)
        latency = clock() - due
        if latency > deadline_s:
            # Where the server's clock runs out first, gRPC says CANCELLED.
            status = {plan.OK: plan.LATE, "CANCELLED": "DEADLINE_EXCEEDED"}.get(status, status)
        return plan.Outcome(latency, lag, status, retry_after_s)

    tasks: list[asyncio.Task[plan.Outcome]] = []
    async with asyncio.TaskGroup() as group:
        for at in arrivals.tolist():
            # A pause even where the next one is overdue: the loop must read answers too.
            await asyncio.sleep(max(0.0, start + at - clock()))
            tasks.append(group.create_task(one(start + at, next(requests))))
    return [task.result() for task in tasks]


def _rates(given: Sequence[float], factor: float | None, reports: Sequence[plan.Report]) -> Iterator[float]:
    """The rates given, then those of the sweep for as long as the newest of ``reports`` kept up."""
    yield from given
    if factor is not None:
        for rate in islice(plan.sweep(given[-1], factor, SWEEP_LIMIT), 1, None):
            if reports[-1].kept_share < FALLS_BEHIND:
                return
            yield rate


def load_table(reports: Sequence[plan.Report], deadline_ms: float) -> Table:
    """One row a rate."""
    heads = ["p50", "p95", "p99", "p99.9", "max"]
    columns = ["rate", "sent", f"in {deadline_ms:g} ms, /s", "share", *(f"{head} ms" for head in heads)]
    columns += ["exhausted", "deadline", "other"]
    return table(columns, (_row(report, heads) for report in reports), right=columns)


def _row(report: plan.Report, heads: Sequence[str]) -> list[object]:
    latency = report.latency_ms
    shown = [f"{latency[head]:,.1f}" if latency else "-" for head in heads]
    exhausted = report.statuses.get("RESOURCE_EXHAUSTED", 0)
    deadline = sum(report.statuses.get(name, 0) for name in ("DEADLINE_EXCEEDED", plan.LATE, plan.NOT_SENT))
    other = report.request_count - report.statuses.get(plan.OK, 0) - exhausted - deadline
    share = f"{report.kept_share:.1%}"
    return [
        f"{report.rate:g}",
        report.request_count,
        f"{report.goodput:,.1f}",
        share,
        *shown,
        exhausted,
        deadline,
        other,
    ]


def _warn(report: plan.Report, deadline_ms: float) -> None:
    if report.lag_p99_ms > 0.1 * deadline_ms:
        notice(
            f"{report.rate:g} requests/s: this machine sent 1 % of them more than {report.lag_p99_ms:.0f} ms late; "
            "run whit load on another machine, or lower --rate"
        )
    known = {plan.OK, plan.LATE, plan.NOT_SENT, "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    for status, count in report.statuses.items():
        if status not in known:
            notice(f"{report.rate:g} requests/s: {counted(count, 'request')} failed with {status}")


def _texts(path: Path | None) -> Sequence[str]:
    if path is None:
        return SENTENCES
    texts = []
    with path.open("rb") as file:
        for entry in read_lines(file, str(path)):
            if isinstance(entry, BadLine):
                raise Failure(f"{entry.source}: {entry.why.partition(';')[0]}; write the file as UTF-8")
            if entry[1].strip():
                texts.append(entry[1])
    if not texts:
        raise Failure(f"{path} has no text; write one a line")
    return texts
