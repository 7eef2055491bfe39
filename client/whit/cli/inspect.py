"""``whit inspect``: what is in a package, without running it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from whit.cli.command import command, json_option
from whit.cli.output import console, facts, jsonable, print_json, size, snippet, table
from whit.contract.manifest import REPORT_FILE, Manifest, PackageError, check_files, read_manifest


@command(
    "inspect",
    examples=[
        "whit inspect packages/all-MiniLM-L6-v2",
        "whit inspect packages/all-MiniLM-L6-v2 --json | jq .manifest.fingerprint",
    ],
    exit_codes={1: "the package is damaged or refused"},
)
@click.argument("package", type=click.Path(path_type=Path))
@json_option
def inspect(package: Path, as_json: bool) -> None:
    """Show what is in PACKAGE (a directory): identity, sizes, prompts, how each layer was compiled, what that cost.

    Proves that every file is there, unaltered. Runs nothing; whit verify does.
    """
    manifest = read_manifest(package)
    check_files(package, manifest)
    sizes = {name: (package / name).stat().st_size for name in sorted(manifest.files)}
    report = _read_report(package / REPORT_FILE)
    if as_json:
        content = {**jsonable(manifest), "fingerprint": manifest.fingerprint}
        print_json({"package": str(package), "manifest": content, "size_bytes": sizes, "report": report})
        return
    out = console()
    out.print(facts(_identity(manifest, sum(sizes.values()))))
    out.print(table(["file", "size", "checksum"], _file_rows(manifest, sizes), right=["size"]))
    if manifest.linears:
        rows = [(linear.name, linear.scheme, f"{linear.error:.4f}") for linear in manifest.linears]
        out.print(table(["linear layer", "scheme", "error"], rows, right=["error"]))
    if report:
        out.print(facts(_flatten(report), title="report"))


def _identity(manifest: Manifest, size_bytes: int) -> list[tuple[str, object]]:
    schemes = Counter(linear.scheme for linear in manifest.linears)
    shorter = ", ".join(map(str, manifest.matryoshka_dimension_counts))
    return [
        ("name", manifest.name),
        ("fingerprint", manifest.fingerprint),
        ("architecture", f"{manifest.architecture}, {manifest.pooling} pooling, target {manifest.target}"),
        ("dimensions", f"{manifest.dimension_count}" + (f" (also {shorter})" if shorter else "")),
        *([("layers", ", ".join(map(str, manifest.layer_counts)))] if manifest.layer_counts else []),
        *([("n-grams", f"{n.shortest} to {n.longest} characters, no tokenizer")] if (n := manifest.ngrams) else []),
        ("max tokens", manifest.max_token_count),
        ("dtype", manifest.dtype + (f" ({', '.join(f'{n} {s}' for s, n in schemes.items())})" if schemes else "")),
        ("instruction set", manifest.instruction_set),
        ("prompts", "; ".join(f"{role}: {snippet(text)!r}" for role, text in manifest.prompts.items()) or "none"),
        ("size", size(size_bytes)),
        ("format version", manifest.format_version),
        *_flatten(dict(sorted(manifest.provenance.items())), "provenance "),
    ]


def _file_rows(manifest: Manifest, sizes: Mapping[str, int]) -> list[tuple[str, str, str]]:
    return [(name, size(sizes[name]), manifest.files[name][:19]) for name in sizes]


def _read_report(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PackageError(f"{path} is not valid JSON ({error}); export the package again") from None
    return report if isinstance(report, dict) else {"report": report}


def _flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """One row a number; a nested object's names are joined by dots, a long list is only counted."""
    rows: list[tuple[str, object]] = []
    for name, item in value.items():
        if isinstance(item, dict):
            rows += _flatten(item, f"{prefix}{name}.")
        elif isinstance(item, list) and (len(item) > 8 or any(isinstance(entry, (dict, list)) for entry in item)):
            rows.append((prefix + name, f"{len(item)} entries"))
        else:
            rows.append((prefix + name, snippet(str(item))))
    return rows
