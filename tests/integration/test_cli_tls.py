"""The commands over TLS, as to a server behind a proxy that ends it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support.command_line import Whit
from tests.support.tls import TlsProxy

COMMANDS = [
    ["models"],
    ["info"],
    ["embed", "a text"],
    ["index", "--collection", "tls", "a.txt"],
    ["search", "tls", "a question"],
    ["load", "--rate", "20", "--duration-s", "0.2"],
]


@pytest.fixture
def authority(files: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(files / "authority.pem")
    return made


@pytest.fixture
def encrypted(server: str, authority: trustme.CA) -> Iterator[str]:
    with TlsProxy(server, authority) as address:
        yield address


def test_every_command_that_talks_to_a_server_can_do_so(
    whit: Whit, encrypted: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "a.txt").write_text("a passage")
    for command in COMMANDS:
        found = whit(*command, "--server", encrypted, "--ca-cert", "authority.pem", "--json")
        assert (found.code, found.err) == (0, ""), command

    monkeypatch.setenv("WHIT_CA_CERT", "authority.pem")
    assert whit("models", "--server", encrypted).code == 0


def test_a_handshake_that_fails_is_one_line_and_none_of_grpcs(encrypted: str) -> None:
    command = [sys.executable, "-m", "whit.cli", "models", "--server", encrypted, "--tls"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1, ended.stderr


def test_what_is_wrong_is_said_in_words_of_the_command_line(
    whit: Whit, server: str, encrypted: str, files: Path
) -> None:
    (files / "empty.pem").write_text("no certificate")
    for address, options, code, words in (
        (encrypted, ["--tls"], 1, "is not to be trusted here; give that of its authority with --ca-cert, and use"),
        (server, ["--ca-cert", "authority.pem"], 1, "does not speak TLS, .*; leave --tls and --ca-cert out if it has"),
        (encrypted, ["--ca-cert", "empty.pem"], 2, "empty.pem has no certificate in PEM form"),
        (encrypted, ["--ca-cert", "none.pem"], 2, "'--ca-cert' .*: File 'none.pem' does not exist"),
    ):
        refused = whit("models", "--server", address, *options)

        assert refused.code == code
        assert refused.err.count("\n") == 1
        assert re.search(words, refused.err)
