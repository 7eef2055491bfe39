"""The blocking client. Decisions are in ``_plans`` and ``_streams``, input and output in ``_sync_transport``.

``_async`` mirrors this module word for word; a test compares signatures and documentation.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

import grpc

from whit.client import _plans as plans
from whit.client import _streams as streams
from whit.client._calls import Session, checked_timeout
from whit.client._channel import (
    DEFAULT_ADDRESS,
    DEFAULT_TIMEOUT_S,
    checked_address,
    checked_credentials,
    metadata_pairs,
)
from whit.client._requests import one_of
from whit.client._retry import RetryPolicy, checked_retry
from whit.client._sync_points import SyncPoints
from whit.client._sync_transport import SyncTransport
from whit.client._types import DEFAULT, EmbedResult, Model, ServerInfo, Timeout, Verification


class Client(SyncPoints):
    """A connection to a whit server; safe to share between threads. ``AsyncClient`` has the same words, awaited.

    Connects on first use. Calls that find the server unreachable or too busy are tried again within their timeout.

    Args:
        address: ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``.
        timeout: seconds that a call may take, with all its batches and retries; sent as the gRPC deadline. For a stream,
            seconds to wait for the answer to a batch: as a whole it may last. None: no limit. Every method takes its own.
        credentials: of TLS, from ``grpc.ssl_channel_credentials``; None: not encrypted.
        metadata: sent with every call, for a proxy that asks for a key.
        retry: how often and how fast to try again; ``RetryPolicy(attempt_count=1)``: never.

    Example:
        >>> with Client() as whit:
        ...     found = whit.embed(["a text"], model="all-MiniLM-L6-v2")
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Mapping[str, str] | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._session = Session(checked_address(address), checked_timeout(timeout), checked_retry(retry))
        self._transport = SyncTransport(self._session, checked_credentials(credentials), metadata_pairs(metadata))

    # ---- lifetime ----

    def close(self) -> None:
        """Ends the connection; calls and streams in progress fail with ``Cancelled``. Closing twice is harmless."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._session}{' closed' if self._transport.is_closed else ''}>"

    # ---- server and models ----

    def info(self, *, timeout: Timeout = DEFAULT) -> ServerInfo:
        """The server's version, limits, providers and models, asked for anew."""
        return self._transport.run(plans.info(self._session, timeout))

    def models(self, *, timeout: Timeout = DEFAULT) -> list[Model]:
        """The models that the server has loaded, by name."""
        return self._transport.run(plans.models(self._session, timeout))

    def model(self, name: str, *, timeout: Timeout = DEFAULT) -> Model:
        """One model.

        Raises:
            NotFound: the server has not loaded it.
        """
        return self._transport.run(plans.model(self._session, name, timeout))

    def verify_model(self, name: str, *, timeout: Timeout = DEFAULT) -> Verification:
        """Recomputes the model's golden vectors on the server and says how far they are from those in the package.

        Raises:
            NotFound: the server has not loaded it.
        """
        return self._transport.run(plans.verify_model(self._session, name, timeout))

    # ---- embedding ----

    def embed(
        self,
        texts: Iterable[str] | None = None,
        *,
        model: str,
        token_ids: Iterable[Sequence[int]] | None = None,
        role: str | None = None,
        instruction: str | None = None,
        dimension_count: int | None = None,
        layer_count: int | None = None,
        encoding: str | Sequence[str] = "float32",
        on_overflow: str = "error",
        normalize: bool = True,
        on_error: str = "raise",
        timeout: Timeout = DEFAULT,
    ) -> EmbedResult:
        """Turns texts into vectors. Many thousands of texts are better streamed: ``embed_stream``.

        More than the server takes in one message is sent in several, one after the other.

        Args:
            texts: the texts; or give ``token_ids``.
            model: name of the model.
            token_ids: a sequence of int for each text, special tokens included, as the model's tokenizer gives them.
            role: name of a prompt of the model that is put before each text, such as ``"query"``.
            instruction: free text that is put before each text; not with ``role``.
            dimension_count: keep this many values of each vector, renormalised. None: all.
            layer_count: compute only so many layers, one of the model's ``layer_counts``: quicker, and other vectors, which
                are not to be compared with those of another layer count. None: all, as in collections.
            encoding: ``"float32"``, ``"float16"``, ``"int8"``, ``"binary"``, ``"2bit"``, ``"3bit"`` or ``"4bit"``, or several of them.
            on_overflow: for a text of more tokens than the model reads: ``"error"`` refuses it, ``"truncate"`` reads its
                first part and sets ``truncated``.
            normalize: scale vectors to length 1.
            on_error: if texts fail, ``"raise"`` ItemErrors or ``"return"`` them with ``items[i].error`` set.
            timeout: seconds for the whole call.

        Raises:
            ItemErrors: texts failed (empty, too long, no Unicode); its ``result`` has the others.
            NotFound: no such model.
            InvalidRequest: an option is refused; there are no texts.
            ResourceExhausted: the server stayed too busy.
        """
        return self._transport.run(
            plans.embed(
                self._session,
                texts,
                token_ids,
                model=model,
                role=role,
                instruction=instruction,
                dimension_count=dimension_count,
                layer_count=layer_count,
                encoding=encoding,
                on_overflow=on_overflow,
                normalize=normalize,
                on_error=on_error,
                timeout=timeout,
            )
        )

    def embed_stream(
        self,
        texts: Iterable[str] | None = None,
        *,
        model: str,
        token_ids: Iterable[Sequence[int]] | None = None,
        batch_size: int = 64,
        role: str | None = None,
        instruction: str | None = None,
        dimension_count: int | None = None,
        layer_count: int | None = None,
        encoding: str | Sequence[str] = "float32",
        on_overflow: str = "error",
        normalize: bool = True,
        on_error: str = "raise",
        timeout: Timeout = DEFAULT,
    ) -> Generator[EmbedResult, None, None]:
        """Turns any number of texts into vectors, in order and in bounded memory; yields a result for each batch.

        Texts are taken only as answers come: at most one batch more than the server's ``stream_window_count`` is on its
        way. While the next text is waited for, answers that have come wait too: for texts that come now and then, use
        ``embed``. An exception of ``texts`` ends the stream and comes out as it is; so does closing the generator, early too.
        The stream is begun again after a failure only while nothing was answered, or where the server ended it because
        it was idle for long (its ``stream_idle_timeout_s``); then what has no answer is sent again.

        ``batch_size`` is the number of texts in a batch; there are fewer where the server's limits ask for it. If texts
        fail, ``on_error="raise"`` raises ItemErrors, which ends the stream; ``"return"`` sets ``items[i].error`` and goes
        on. ``timeout`` is the seconds to wait for the answer to a batch. The other arguments are those of ``embed``.

        Raises:
            ItemErrors: texts of a batch failed; its ``result`` has the others, its ``start`` the batch's place.
            NotFound: no such model.
            InvalidRequest: an option is refused.
            Unavailable: the server went away; the message says how much was answered.
        """
        source, are_token_ids = one_of(texts, token_ids)
        plan = streams.embed(
            self._session,
            are_token_ids=are_token_ids,
            batch_size=batch_size,
            model=model,
            role=role,
            instruction=instruction,
            dimension_count=dimension_count,
            layer_count=layer_count,
            encoding=encoding,
            on_overflow=on_overflow,
            normalize=normalize,
            on_error=on_error,
            timeout=timeout,
        )
        return self._transport.stream(plan, source)
