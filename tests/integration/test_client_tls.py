"""Both clients over TLS, as to a server behind a proxy that ends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme

from tests.support.clients import KINDS, open_client
from tests.support.server import server_thread
from tests.support.tls import TlsProxy
from whit.client import RetryPolicy, Unavailable

_TEXTS = ["the first text", "another one"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_thread(tmp_path_factory.mktemp("data")) as address:
        yield address


@pytest.fixture(scope="module")
def encrypted(plain: str, authority: trustme.CA) -> Iterator[str]:
    with TlsProxy(plain, authority) as address:
        yield address


def credentials(authority: trustme.CA, tmp_path: Path) -> grpc.ChannelCredentials:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    return grpc.ssl_channel_credentials((tmp_path / "authority.pem").read_bytes())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_come_through(
    kind: str, plain: str, encrypted: str, authority: trustme.CA, tmp_path: Path
) -> None:
    with open_client(kind, plain) as client:
        expected = client.embed(_TEXTS, model="tiny").vectors
    with open_client(kind, encrypted, credentials=credentials(authority, tmp_path)) as client:
        found = client.embed(_TEXTS, model="tiny").vectors
        streamed = [batch.vectors for batch in client.embed_stream(_TEXTS, model="tiny", batch_size=1)]

    assert np.array_equal(found, expected)
    assert np.array_equal(np.concatenate(streamed), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_is_said(kind: str, plain: str, encrypted: str, authority: trustme.CA, tmp_path: Path) -> None:
    known, unknown = credentials(authority, tmp_path), credentials(trustme.CA(), tmp_path)
    with TlsProxy(plain, authority, "elsewhere.test") as elsewhere:
        for address, given, words in (
            (encrypted, unknown, "certificate of .* is not to be trusted"),
            (elsewhere, known, "use a name that is in it"),
            (plain, known, "does not speak TLS"),
        ):
            with (
                open_client(kind, address, credentials=given, retry=RetryPolicy(attempt_count=1)) as client,
                pytest.raises(Unavailable, match=words),
            ):
                client.embed(_TEXTS, model="tiny")
