"""The tokenizer and the encoder of a package, whatever its kind. A kind's own libraries are loaded when a package asks for them."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import TYPE_CHECKING

from whit.contract.manifest import PROVIDERS, STATIC, PackageError
from whit.runtime.package import Package

if TYPE_CHECKING:
    from whit.runtime.encoder import Encoder
    from whit.runtime.native import UnsupportedError
    from whit.runtime.native.encoder import NativeEncoder, Network
    from whit.runtime.ngrams import NgramReader
    from whit.runtime.static import StaticEncoder
    from whit.runtime.tokenizer import Tokenizer

    AnyTokenizer = Tokenizer | NgramReader
    AnyEncoder = Encoder | NativeEncoder | StaticEncoder

PROVIDER_VARIABLE = "WHIT_PROVIDER"

_log = logging.getLogger(__name__)


def open_tokenizer(package: Package) -> AnyTokenizer:
    """What reads the texts of ``package``: its ``tokenizer.json``, or the n-grams of words where it has none.

    Raises:
        PackageError: ``tokenizer.json`` cannot be read.
    """
    if package.manifest.ngrams:
        from whit.runtime.ngrams import NgramReader

        return NgramReader(package.manifest.ngrams, package.manifest.vocabulary_size)
    from whit.runtime.tokenizer import Tokenizer

    return Tokenizer(package)


def open_encoder(package: Package, provider: str | None = None) -> AnyEncoder:
    """The encoder of ``package``: a table, whit's own kernels, or a graph in onnxruntime.

    Args:
        package: as opened.
        provider: one of ``PROVIDERS``, for packages that have a graph; None: what ``WHIT_PROVIDER`` says, else ``auto``.

    Raises:
        PackageError: its graph or table cannot be read; ``native`` cannot run it; there is no such provider.
    """
    if package.manifest.kind == STATIC:
        from whit.runtime.static import StaticEncoder

        return StaticEncoder(package)
    provider = _provider(provider)
    if provider == "native" or (provider == "auto" and package.manifest.dtype == "int8"):
        from whit.runtime.native import UnsupportedError
        from whit.runtime.native.encoder import NativeEncoder

        try:
            return NativeEncoder(package)
        except UnsupportedError as lack:
            if provider == "native":
                raise PackageError(
                    f"{package.directory} cannot run in whit's own kernels: {lack}; use provider auto or onnxruntime"
                ) from None
            _tell(package.manifest.name, lack)
    from whit.runtime.encoder import Encoder  # brings onnxruntime along

    return Encoder(package)


def open_network(graph: bytes, dtype: str, *, position_offset: int) -> Network | None:
    """A graph that is no package yet, in whit's own kernels where ``open_encoder`` would run it there; else None."""
    if _provider(None) == "onnxruntime" or dtype != "int8":
        return None
    from whit.runtime.native import UnsupportedError
    from whit.runtime.native.encoder import Network

    try:
        return Network(graph, position_offset=position_offset)
    except UnsupportedError as lack:
        _tell("a graph", lack)
        return None


def _tell(what: str, lack: UnsupportedError) -> None:
    """Logs why something runs in onnxruntime: at level INFO, but that the kernels are outdated once as a warning."""
    from whit.runtime.native import OutdatedError

    _log.info("%s runs in onnxruntime, not in whit's own kernels: %s", what, lack)
    if isinstance(lack, OutdatedError):
        _warn_once(f"int8 packages run in onnxruntime, not in whit's own kernels: {lack}")


@cache
def _warn_once(message: str) -> None:
    _log.warning(message)


def _provider(given: str | None) -> str:
    provider = given or os.environ.get(PROVIDER_VARIABLE) or "auto"
    if provider not in PROVIDERS:
        raise PackageError(
            f"there is no provider {provider!r}; {PROVIDER_VARIABLE} must be one of {', '.join(PROVIDERS)}"
        )
    return provider
