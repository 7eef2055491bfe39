"""Loads packages for the engine. Kept apart from it because this brings in the runtime."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from whit.contract import names
from whit.contract.manifest import PackageError
from whit.runtime import compare, open_encoder, open_package, open_tokenizer, read_golden
from whit.server.engine.models import Encoder, LoadedModel
from whit.server.engine.types import TokenIds

_logger = logging.getLogger(__name__)

# A trip to a worker thread and back takes about so long, with two changes of the thread that holds the interpreter.
_INSTANT_S = 0.4e-3
_SHORT_TEXT = "a text of a few words"


def load_models(
    directories: Iterable[Path], *, allow_unverified: bool = False, provider: str | None = None
) -> dict[str, LoadedModel]:
    """Loads each package directory; the result is by model id.

    Raises:
        PackageError: as ``load_model``, or two packages have the same name.
    """
    models: dict[str, LoadedModel] = {}
    for directory in directories:
        model = load_model(directory, allow_unverified=allow_unverified, provider=provider)
        if model.id in models:
            raise PackageError(
                f"{directory} and {models[model.id].package.directory} are both named {model.id!r}; "
                "serve one of them, or export one under another name"
            )
        models[model.id] = model
    return models


def load_model(directory: Path, *, allow_unverified: bool = False, provider: str | None = None) -> LoadedModel:
    """Opens a package, loads it and recomputes its golden vectors, which also warms it up.

    Args:
        directory: the package.
        allow_unverified: load it even where its golden vectors differ on this machine; ``verified`` is then False.
        provider: see ``open_encoder``.

    Raises:
        PackageError: it cannot be read or run here, or its golden vectors differ.
    """
    package = open_package(directory)
    model_id = package.manifest.name
    try:
        names.parse_model_name(names.model_name(model_id))
    except ValueError:
        raise PackageError(
            f"{directory}: the name {model_id!r} cannot be a model id ({names.MODEL_ID_RULE}); export it under another name"
        ) from None
    tokenizer, encoder = open_tokenizer(package), open_encoder(package, provider)
    verify = partial(compare, read_golden(package), package, tokenizer, encoder)
    found = verify()
    if not found.verified:
        difference = (
            f"{directory}: golden vectors differ on this machine by up to {found.max_abs_difference:.3g}, "
            f"more than {found.tolerance:.3g}"
        )
        if not allow_unverified:
            raise PackageError(f"{difference}; export the package again here, or start with --allow-unverified")
        _logger.warning("%s; serving it all the same", difference)
    return LoadedModel(
        id=model_id,
        package=package,
        tokenizer=tokenizer,
        encoder=encoder,
        size_bytes=package.size_bytes,
        verified=found.verified,
        is_instant=_short_run_s(encoder, tokenizer.encode([_SHORT_TEXT])) <= _INSTANT_S,
        mixes_lengths=found.mixes_lengths,
        verify=verify,
    )


def _short_run_s(encoder: Encoder, sequences: Sequence[TokenIds]) -> float:
    """Seconds that a short text takes, the best of a few runs: the first ones are slower, and others use the machine."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        encoder.run(sequences)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
