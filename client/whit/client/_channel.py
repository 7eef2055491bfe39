"""What the two kinds of channel are made with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import grpc
import grpc.aio

from whit.contract import keepalive

DEFAULT_ADDRESS = "127.0.0.1:7600"
DEFAULT_TIMEOUT_S = 60.0


_HOST_AND_PORT = re.compile(r"(?:[^\s:/\[\]]+|\[[^\s/\[\]]+\]):([0-9]{1,5})")
_OWN_ADDRESS = re.compile(r"127(?:\.[0-9]{1,3}){3}")
_URLS = ("http://", "https://", "grpc://", "tcp://")
_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:", "xds:")  # gRPC's own, for it to read


def checked_address(address: str) -> str:
    """``address``, unless it has a form that gRPC would misread: without a port it takes that of https, 65537 is 1 to it.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty or a URL, has no port or one beyond 65535, or is an IPv6 address without brackets.
    """
    if not isinstance(address, str):
        raise TypeError(f"address must be str, such as {DEFAULT_ADDRESS!r}; got {type(address).__name__}")
    if address.startswith(_SCHEMES):
        is_known = address.isprintable() and not address.endswith(":")
    elif "://" in address:
        is_known = address.isprintable() and not address.startswith(_URLS)
    else:
        found = _HOST_AND_PORT.fullmatch(address)
        is_known = found is not None and 0 < int(found[1]) < 65536 and address.isprintable()
    if not is_known:
        raise ValueError(
            f"address must be HOST:PORT (1 to 65535), [IPV6]:PORT or unix:PATH, such as {DEFAULT_ADDRESS!r}; got {address!r}"
        )
    return address


def checked_credentials(credentials: grpc.ChannelCredentials | None) -> grpc.ChannelCredentials | None:
    """``credentials``, unless they are something else.

    Raises:
        TypeError: they are.
    """
    if credentials is not None and not isinstance(credentials, grpc.ChannelCredentials):
        raise TypeError(
            f"credentials must come from grpc.ssl_channel_credentials(…), or be None for no TLS; got {type(credentials).__name__}"
        )
    return credentials


def aio_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """A channel of asyncio, with TLS where there are credentials."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options(address))
    return grpc.aio.secure_channel(address, credentials, options(address))


def options(address: str) -> list[tuple[str, int]]:
    """Channel options: no message limits of our own (the server says its), quick reconnection, no proxy to ourselves, pings."""
    found = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # gRPC waits 1 s after a failed connection, in which every try fails at once: that would waste our retries.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5000),
        # Notices a connection that died without a word (the laptop slept, a router forgot it), if possible before a call does.
        *keepalive.ping_options(keepalive.CLIENT_INTERVAL_MS),
        ("grpc.http2.max_pings_without_data", 0),  # no limit: gRPC would stop after two
    ]
    if is_loopback(address):
        found.append(("grpc.enable_http_proxy", 0))
    return found


def is_loopback(address: str) -> bool:
    """Whether ``address`` is on this machine, so that no proxy from the environment may come between."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")[0]
    return _OWN_ADDRESS.fullmatch(host) is not None or host in ("localhost", "[::1]")


_KEY = re.compile(r"[0-9A-Za-z_.-]+")
_VALUE = re.compile(r"[ -~]*")


def metadata_pairs(metadata: Mapping[str, str] | None) -> Sequence[tuple[str, str]]:
    """Request metadata as gRPC takes it; keys are lower case on the wire, and those that end in ``-bin`` have bytes.

    Raises:
        TypeError: no mapping, or a key or value of another type.
        ValueError: a key or value that no header can hold; it is not shown, for it may be a secret.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping of header names to str, got {type(metadata).__name__}")
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError(
                f"metadata has the key {key!r}; a header's name is made of letters, digits, '_', '-' and '.'"
            )
        kind: type = bytes if key.lower().endswith("-bin") else str
        if not isinstance(value, kind):
            raise TypeError(f"metadata[{key!r}] must be {kind.__name__}, got {type(value).__name__}")
        if isinstance(value, str) and not _VALUE.fullmatch(value):
            raise ValueError(
                f"metadata[{key!r}] must be printable ASCII, on one line; for anything else use a key in -bin"
            )
    return tuple((key.lower(), value) for key, value in (metadata or {}).items())
