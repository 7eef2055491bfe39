"""A package for the ``mteb`` benchmark (N. Muennighoff et al., arXiv:2210.07316), by its ``EncoderProtocol``.

Install ``mteb`` beside whit; nothing here needs it until it asks for the model's metadata::

    import mteb
    from whit.export.evaluate.mteb_adapter import MtebEncoder

    mteb.evaluate(MtebEncoder("packages/mini"), mteb.get_tasks(["STSBenchmark"]))
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from whit.export.evaluate.metrics import FloatMatrix, cosines
from whit.export.evaluate.model import DOCUMENT, QUERY, Model

# What mteb calls the roles; "passage" is the word of its first versions.
_ROLES = {"query": QUERY, "document": DOCUMENT, "passage": DOCUMENT}


class MtebEncoder:
    """A package as ``mteb`` wants a model: vectors of length 1, by the path that the server takes."""

    def __init__(self, package: Path | str, *, threads: int | None = None) -> None:
        """Opens a package; ``threads`` as for ``Model``.

        Raises:
            PackageError: it is damaged, or made for another machine.
        """
        self._model = Model(Path(package), threads=threads)

    def encode(
        self, inputs: Sequence[str] | Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **_task: Any
    ) -> FloatMatrix:
        """Vectors, float32 [texts, dimension_count], in the order of the inputs.

        Args:
            inputs: batches with the texts under ``text``, as mteb's loader gives them; or plain texts, as its first versions do.
            prompt_type: mteb's role, an enum or its value; a package with a prompt for the role puts it before each text.
            _task: what mteb says of the task (``task_metadata``, ``hf_split``, …) and options such as ``batch_size``; vectors
                depend on none of it.

        Raises:
            ValueError: a batch has no texts, as those of image tasks.
        """
        role = _ROLES.get(str(getattr(prompt_type, "value", prompt_type)))
        return self._model.embed(_texts(inputs), role=role)

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> FloatMatrix:
        """Cosines of all with all, float32 [n, m]."""
        first, second = _matrix(embeddings1), _matrix(embeddings2)
        return np.asarray(first @ second.T, np.float32)

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> FloatMatrix:
        """Cosines row by row, float32 [n]."""
        return cosines(_matrix(embeddings1), _matrix(embeddings2)).astype(np.float32)

    @property
    def mteb_model_meta(self) -> Any:
        """The package's ``ModelMeta``: what the manifest knows; all else that mteb requires is unknown (None).

        Raises:
            ModuleNotFoundError: ``mteb`` is not installed.
        """
        kind = importlib.import_module("mteb.models.model_meta").ModelMeta
        fields = kind.model_fields
        known = {name: value for name, value in self._facts().items() if name in fields}
        unknown = {name: None for name, field in fields.items() if field.is_required()}
        return kind(**{**unknown, **known})

    def _facts(self) -> dict[str, Any]:
        manifest = self._model.package.manifest
        return {
            "name": f"whit/{manifest.name}",
            "revision": manifest.fingerprint,
            "max_tokens": manifest.max_token_count,
            "embed_dim": manifest.dimension_count,
            "memory_usage_mb": self._model.package.size_bytes / 1e6,
            "similarity_fn_name": "cosine",
            "use_instructions": bool(manifest.prompts),
            "framework": [],
        }


def _texts(inputs: Sequence[str] | Iterable[Mapping[str, Any]]) -> list[str]:
    found: list[str] = []
    for batch in inputs:
        if isinstance(batch, str):
            found.append(batch)
        elif "text" in batch:
            found.extend(batch["text"])
        else:
            raise ValueError(f"a batch has {', '.join(batch)} but no text; whit embeds texts only")
    return found


def _matrix(vectors: ArrayLike) -> FloatMatrix:
    return np.atleast_2d(np.asarray(vectors, np.float32))
