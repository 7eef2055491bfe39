"""``whit verify``: are the package's vectors the ones this machine computes?"""

from __future__ import annotations

import time
from pathlib import Path

import click

from whit.cli.command import Failure, command, json_option
from whit.cli.output import console, facts, jsonable, print_json


@command(
    "verify",
    examples=["whit verify packages/all-MiniLM-L6-v2", "whit verify /srv/packages/all-MiniLM-L6-v2 --json"],
    exit_codes={1: "the package is damaged or refused, or its vectors differ here"},
)
@click.argument("package", type=click.Path(path_type=Path))
@json_option
def verify(package: Path, as_json: bool) -> None:
    """Recompute the golden vectors of PACKAGE (a directory) on this machine and compare them.

    Uses the server's own runtime, and says which provider of it ran the package: whit's own kernels, onnxruntime's
    CPUExecutionProvider, or the table of a static package. WHIT_PROVIDER chooses, as for whit serve. First proves that every
    file of the package is there, unaltered.
    """
    from whit.runtime.opening import open_encoder, open_tokenizer
    from whit.runtime.package import open_package
    from whit.runtime.verify import verify as verify_package

    start = time.perf_counter()
    opened = open_package(package)
    encoder = open_encoder(opened)
    result = verify_package(opened, open_tokenizer(opened), encoder)
    seconds = time.perf_counter() - start
    if as_json:
        identity = {"package": str(package), "name": opened.manifest.name, "fingerprint": opened.manifest.fingerprint}
        print_json({**identity, "provider": encoder.provider, **jsonable(result), "time_s": round(seconds, 3)})
    else:
        pairs = [
            ("package", f"{opened.manifest.name}, {opened.manifest.fingerprint}"),
            ("provider", encoder.provider),
            ("golden texts", result.text_count),
            ("largest difference", f"{result.max_abs_difference:.2e} (allowed: {result.tolerance:.0e})"),
            ("smallest cosine", f"{result.min_cosine:.7f}"),
            ("verdict", f"{'verified' if result.verified else 'NOT VERIFIED'} in {seconds:.2f} s"),
        ]
        console().print(facts(pairs))
    if not result.verified:
        raise Failure(
            f"{package} gives other vectors on this machine (largest difference {result.max_abs_difference:.2e}, allowed "
            f"{result.tolerance:.0e}); export it again on this machine"
        )
