"""What the two kinds of channel are made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

DEFAULT_ADDRESS = "127.0.0.1:7600"
DEFAULT_TIMEOUT_S = 60.0


def checked_address(address: str) -> str:
    """``address``, unless it has a form that gRPC would misread; without a port it would take that of https.

    Raises:
        ValueError: it is empty or a URL, or has no port.
    """
    is_url = address.startswith(("http://", "https://", "grpc://", "tcp://"))
    # gRPC has more schemes (``dns:///host:port``); only what looks like HOST:PORT is checked here.
    port = address.rpartition(":")[2]
    lacks_port = "/" not in address and not address.startswith(("unix:", "unix-abstract:")) and not port.isdecimal()
    if not address or is_url or lacks_port:
        raise ValueError(
            f"address must be HOST:PORT, [IPV6]:PORT or unix:PATH, such as {DEFAULT_ADDRESS!r}; got {address!r}"
        )
    return address


def options(address: str) -> list[tuple[str, int]]:
    """Channel options: no message limits of our own (the server says its), quick reconnection, no proxy to ourselves."""
    found = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # gRPC waits 1 s after a failed connection, in which every try fails at once: that would waste our retries.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5000),
    ]
    if is_loopback(address):
        found.append(("grpc.enable_http_proxy", 0))
    return found


def is_loopback(address: str) -> bool:
    """Whether ``address`` is on this machine, so that no proxy from the environment may come between."""
    host = address.rpartition(":")[0] or address
    return host.startswith(("127.", "unix")) or address.startswith("unix:") or host in ("localhost", "[::1]", "::1")


def metadata_pairs(metadata: Mapping[str, str] | None) -> Sequence[tuple[str, str]]:
    """Request metadata as gRPC takes it; keys are lower case on the wire."""
    return tuple((key.lower(), value) for key, value in (metadata or {}).items())
