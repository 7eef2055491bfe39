"""How client and server notice a connection that died without a word: each pings where nothing came for a while.

gRPC's pings: https://github.com/grpc/grpc/blob/master/doc/keepalive.md. A server ends the connection of whoever pings more
often than it permits (GOAWAY, too_many_pings), so the client's interval must be more than the least that the server bears.
"""

from __future__ import annotations

CLIENT_INTERVAL_MS = 20_000
SERVER_INTERVAL_MS = 60_000
"""A side pings after so long without a byte from the other, calls or no calls."""

LEAST_INTERVAL_MS = 10_000
"""What a server permits, with and without calls: any client's pings, not only ours."""

TIMEOUT_MS = 20_000
"""A connection on which a ping has waited for its answer so long is dead. Pings wait behind data, and lines may be slow."""


def ping_options(interval_ms: int) -> list[tuple[str, int]]:
    """Channel or server options of gRPC for a side that pings so often."""
    return [
        ("grpc.keepalive_time_ms", interval_ms),
        ("grpc.keepalive_timeout_ms", TIMEOUT_MS),
        # The former alone is not obeyed: a ping's own timeout, a minute, takes its place (https://github.com/grpc/grpc/pull/34647).
        ("grpc.http2.ping_timeout_ms", TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
