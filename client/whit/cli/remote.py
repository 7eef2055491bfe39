"""What every command that talks to a server shares: the address, the timeout and the connection."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from whit.cli.command import Amount, Failure
from whit.client import Client
from whit.contract.names import COLLECTION_ID_RULE, collection_name, parse_collection_name

DEFAULT_SERVER = "127.0.0.1:7600"

# Where something stood in a message of the wire: nothing to a user who gave a file or a flag.
_PLACE_ON_THE_WIRE = re.compile(
    r"(?:texts|points|vectors|token_ids)\[\d+\](?:\.|: )|\A(?:options|config)\.(?=[a-z_]+: )"
)

# What the client says of its arguments, and what the command line calls them.
_FLAGS = {
    'ask for on_overflow="truncate"': "give --on-overflow truncate",
    "give a larger timeout, or None for no limit": "give a larger --timeout-s",
}
_FLAG_OF_FIELD = {
    "layer_count": "--layers",
    "dimension_count": "--dimensions",
    "role": "--role",
    "instruction": "--instruction",
    "limit": "--limit",
}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def server_options(function: _Function) -> _Function:
    """Adds ``--server`` and ``--timeout-s``; the function gets ``server`` and ``timeout_s``."""
    address = click.option(
        "--server",
        metavar="ADDR",
        envvar="WHIT_SERVER",
        default=DEFAULT_SERVER,
        show_default=True,
        show_envvar=True,
        help="Address of the server: HOST:PORT, [IPV6]:PORT or unix:PATH.",
    )
    timeout = click.option(
        "--timeout-s",
        type=Amount(),
        default=60.0,
        show_default=True,
        help="Give up after this many seconds without an answer.",
    )
    return address(timeout(function))


def connect(server: str, timeout_s: float) -> Client:
    """A client of ``server``; use it as a context manager. Connects on first use.

    Raises:
        click.UsageError: ``server`` is not an address.
    """
    try:
        return Client(server, timeout=timeout_s)
    except ValueError as error:
        raise click.UsageError(f"--server (or WHIT_SERVER): {error}.") from None


def choose_model(client: Client, model: str | None) -> str:
    """``model`` if given, else the one model that the server has loaded.

    Raises:
        Failure: none is loaded.
        click.UsageError: several are; the message lists them.
    """
    if model:
        return model
    loaded = [entry.name for entry in client.models()]
    if len(loaded) == 1:
        return loaded[0]
    if not loaded:
        raise Failure("the server has no model loaded; start it with: whit serve --models PACKAGE")
    raise click.UsageError(f"the server has several models; pick one with --model: {', '.join(loaded)}.")


def check_collection(_ctx: click.Context, _parameter: click.Parameter, value: str) -> str:
    """A callback of click: refuses what cannot be the name of a collection before anything is sent."""
    try:
        return parse_collection_name(collection_name(value))
    except ValueError:
        raise click.BadParameter(f"{value!r} must be {COLLECTION_ID_RULE}.") from None


def why(error: object) -> str:
    """What went wrong, in the server's words, without its place on the wire and with flags in place of options."""
    words = _PLACE_ON_THE_WIRE.sub("", str(error), count=1)
    for wire, flag in _FLAGS.items():
        words = words.replace(wire, flag)
    field, colon, rest = words.partition(": ")
    return f"{_FLAG_OF_FIELD.get(field, field)}{colon}{rest}"
