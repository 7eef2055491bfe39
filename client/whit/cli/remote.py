"""What every command that talks to a server shares: its address, TLS, the timeout and the connection."""

from __future__ import annotations

import functools
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import grpc

from whit.cli.command import Amount, Failure
from whit.client import Client
from whit.client._channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from whit.contract.names import COLLECTION_ID_RULE, collection_name, parse_collection_name

# Where something stood in a message of the wire: nothing to a user who gave a file or a flag.
_PLACE_ON_THE_WIRE = re.compile(
    r"(?:texts|points|vectors|token_ids)\[\d+\](?:\.|: )|\A(?:options|config|collection)\.(?=[a-z_]+: )"
)

# What the client says of its arguments, and what the command line calls them.
_FLAGS = {
    'ask for on_overflow="truncate"': "give --on-overflow truncate",
    "give a larger timeout, or None for no limit": "give a larger --timeout-s",
    "make credentials from that of its authority, with grpc.ssl_channel_credentials(root_certificates)": "give that of its authority with --ca-cert",
    "leave credentials out": "leave --tls and --ca-cert out",
}
_FLAG_OF_FIELD = {
    "layer_count": "--layers",
    "dimension_count": "--dimensions",
    "model": "--model",
    "role": "--role",
    "instruction": "--instruction",
    "limit": "--limit",
}


@dataclass(frozen=True, slots=True)
class Server:
    """Whom a command talks to; ``credentials`` None: without TLS."""

    address: str
    timeout_s: float = DEFAULT_TIMEOUT_S
    credentials: grpc.ChannelCredentials | None = None

    def connect(self) -> Client:
        """A client; use it as a context manager. Connects on first use.

        Raises:
            click.UsageError: it has no address.
        """
        try:
            return Client(self.address, timeout=self.timeout_s, credentials=self.credentials)
        except ValueError as error:
            raise click.UsageError(f"--server (or WHIT_SERVER): {error}.") from None


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--server``, ``--tls``, ``--ca-cert`` and ``--timeout-s``; the function gets one ``server``."""

    @functools.wraps(function)
    def with_server(*args: Any, server: str, tls: bool, ca_cert: Path | None, timeout_s: float, **kwargs: Any) -> Any:
        credentials = _credentials(ca_cert) if tls or ca_cert else None
        return function(*args, server=Server(server, timeout_s, credentials), **kwargs)

    address = click.option(
        "--server",
        metavar="ADDR",
        envvar="WHIT_SERVER",
        default=DEFAULT_ADDRESS,
        show_default=True,
        show_envvar=True,
        help="Address of the server: HOST:PORT, [IPV6]:PORT or unix:PATH.",
    )
    tls = click.option(
        "--tls",
        is_flag=True,
        envvar="WHIT_TLS",
        show_envvar=True,
        help="Encrypt, for a server behind a proxy that speaks TLS.",
    )
    ca_cert = click.option(
        "--ca-cert",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        envvar="WHIT_CA_CERT",
        show_envvar=True,
        help="As --tls, and trust the authorities whose certificates (PEM) are in this file. Default: those that gRPC knows.",
    )
    timeout = click.option(
        "--timeout-s",
        type=Amount(),
        default=DEFAULT_TIMEOUT_S,
        show_default=True,
        help="Give up after this many seconds without an answer.",
    )
    return address(tls(ca_cert(timeout(with_server))))


def _credentials(ca_cert: Path | None) -> grpc.ChannelCredentials:
    if ca_cert is None:
        return grpc.ssl_channel_credentials()
    try:
        ssl.create_default_context(cafile=ca_cert)
    except ssl.SSLError:  # gRPC would only say of the server that it is not to be trusted
        raise click.UsageError(f"--ca-cert (or WHIT_CA_CERT): {ca_cert} has no certificate in PEM form.") from None
    return grpc.ssl_channel_credentials(ca_cert.read_bytes())


def choose_model(client: Client, model: str | None) -> str:
    """``model`` if given, else the one model that the server has loaded.

    Raises:
        Failure: none is loaded.
        click.UsageError: several are; the message lists them.
    """
    if model is not None:
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
