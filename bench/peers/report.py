"""From ``peers.json`` to the table and the plot in the documentation.

python -m bench.peers.report peers.json OUT.svg  draws the plot: the only part that needs matplotlib, so it has an environment of its own.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLUMNS = (
    "contender",
    "short texts/s",
    "abstracts/s",
    "mixed texts/s",
    "whit over gRPC, times this one: short / abstracts / mixed",
    "CPU ms a mixed text",
    "one text, p50 / p95 / p99 ms",
    "peak RSS MB",
    "STS-B / Cranfield",
    "bytes a vector",
    "alone or batched: least cosine",
)


def markdown(content: Mapping[str, Any]) -> str:
    """The table, and what a reader must know about the run."""
    rows = [_cells(row) for row in content["contenders"]]
    lines = [_line(_COLUMNS), _line(["---", *["---:"] * (len(_COLUMNS) - 1)]), *map(_line, rows)]
    machine = content["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, {machine['date']}"
    busy = max(row["foreign_cores"] for row in content["contenders"])
    note = (
        f"{where}. Medians of {content['rounds']} rounds; half-range of a cell over the rounds: median {100 * _median_spread(content):.0f} %. "
        f"Other work on the machine while a contender had its turn: at most {busy:.2f} cores in the median."
    )
    lines += ["", note]
    lines += ["", "![Texts/s of each contender](peers.svg)"]
    for name, why in content.get("left_out", {}).items():
        lines.append(f"Left out: {name} ({why.splitlines()[0]}).")
    return "\n".join(lines)


def servers_markdown(content: Mapping[str, Any]) -> str:
    """The two tables of the servers under load."""
    loads = {"one_short": "one short text", "batch_64": "64 short texts", "one_mixed": "one mixed text"}
    heads = [
        "server",
        *(f"{title}: texts/s, p50 / p99 ms" for title in loads.values()),
        "CPU ms a short text",
        "peak RSS MB",
    ]
    rows = []
    for row in content["servers"]:
        cells = [_closed_cell(row["closed"][key]) for key in loads]
        cpu = f"{row['closed']['one_short']['cpu_ms_per_text']:.2f}"
        rows.append([row["title"], *cells, cpu, f"{row['peak_mb']:,.0f}"])
    rates = content["open"]["rates"]
    opened = [[row["title"], *_open_cells(row["open"], rates)] for row in content["servers"]]
    lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)]), *map(_line, rows), ""]
    lines += [
        _line(["offered, requests/s", *map(str, rates)]),
        _line(["---", *["---:"] * len(rates)]),
        *map(_line, opened),
    ]
    lines += [f"\nLeft out: {name} ({why.splitlines()[0]})." for name, why in content["left_out"].items()]
    return "\n".join(lines)


def write_table(body: str, page: Path, name: str) -> None:
    """Replaces what stands between the two marks called ``name`` on the page; says so if it has none."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    pattern = f"(<!-- {re.escape(name)}: begin [^>]*-->).*?(<!-- {re.escape(name)}: end -->)"
    changed, count = re.subn(pattern, lambda marks: f"{marks[1]}\n{body}\n{marks[2]}", text, flags=re.DOTALL)
    if count == 1:
        page.write_text(changed, encoding="utf-8")
    else:
        wanted = f"<!-- {name}: begin (command) --> and <!-- {name}: end -->"
        print(f"{page.name} has no place for the table; it needs the lines {wanted}", file=sys.stderr)


def plot(content: Mapping[str, Any], out: Path) -> None:
    """Bars of texts/s of each set, one panel a set."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "whit"  # the same figures give the same file
    from matplotlib import pyplot as plt

    rows = list(reversed(content["contenders"]))
    names = list(rows[0]["texts_per_s"])
    figure, panels = plt.subplots(1, len(names), figsize=(13, 0.42 * len(rows) + 1.2), sharey=True)
    for panel, name in zip(panels, names, strict=True):
        values = [row["texts_per_s"][name] for row in rows]
        colors = ["#c2410c" if row["name"].startswith("whit") else "#94a3b8" for row in rows]
        bars = panel.barh([row["name"].replace("_", " ") for row in rows], values, color=colors)
        panel.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=8)
        panel.set_title(f"{name}, texts/s", fontsize=10)
        panel.set_xlim(0, 1.18 * max(values))
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    rate = row["texts_per_s"]
    return (
        row["title"],
        f"{rate['short']:,.0f}",
        f"{rate['abstracts']:,.1f}",
        f"{rate['mixed']:,.0f}",
        " / ".join(f"{value:.2f}" for value in row["ratio_of_served"].values()) if "ratio_of_served" in row else "-",
        f"{row['cpu_ms_per_text']['mixed']:.1f}",
        f"{row['single_p50_ms']:.1f} / {row['single_p95_ms']:.1f} / {row['single_p99_ms']:.1f}",
        f"{row['peak_mb']:,.0f}",
        f"{row['sts_b']:.2f} / {'-' if row['cranfield'] is None else format(row['cranfield'], '.1f')}",
        f"{row['vector_bytes']:,}",
        "identical bytes" if row["batch_max_difference"] == 0 else f"{row['batch_min_cosine']:.4f}",
    )


def _closed_cell(found: Mapping[str, Any]) -> str:
    return f"{found['texts_per_s']:,.0f} ({found['ratio']:.2f} x), {found['p50_ms']:.0f} / {found['p99_ms']:.0f}"


def _open_cells(rows: Sequence[Mapping[str, Any]], rates: Sequence[int]) -> list[str]:
    """Share in time and p99; a dash where the server had failed already at a lower rate."""
    found = {row["rate"]: row for row in rows}
    return [
        f"{100 * found[rate]['in_time_share']:.0f} %, p99 {found[rate]['p99_ms'] or 0:,.0f} ms"
        if rate in found
        else "-"
        for rate in rates
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _median_spread(content: Mapping[str, Any]) -> float:
    spreads = sorted(value for row in content["contenders"] for value in row["spread"].values())
    return float(spreads[len(spreads) // 2])


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
