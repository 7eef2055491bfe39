"""A checkpoint folder with one more Dense in its head."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from whit.export.checkpoint import CheckpointError, FloatArray


@contextmanager
def with_dense(
    source: Path, dense: tuple[FloatArray, FloatArray] | None, *, pooling: str | None = None
) -> Iterator[Path]:
    """Gives a copy of ``source`` whose head ends in a Dense (weight [in, out], bias [out]); ``source`` itself for None.

    The Dense comes before the normalisation, where there is one. The copy is gone afterwards. A folder that does not say
    how it pools (a bare Hugging Face one) pools by ``pooling`` and normalises from then on; without it, it is refused.
    """
    if dense is None:
        yield source
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, source.name)
        shutil.copytree(source, copy)
        if pooling is not None and not (copy / "modules.json").is_file():
            _write_modules(copy, pooling)
        _append(copy, *dense)
        yield copy


def _write_modules(folder: Path, pooling: str) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}) + "\n", encoding="utf-8")
    places = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    modules = [{"path": place, "type": f"sentence_transformers.models.{kind}"} for kind, place in places]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


def _append(folder: Path, weight: FloatArray, bias: FloatArray) -> None:
    path = folder / "modules.json"
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing, so a Dense cannot be added; save the model with sentence-transformers, or use "
            "projection 'pca'"
        )
    modules = json.loads(path.read_text(encoding="utf-8"))
    is_normalized = modules[-1]["type"].endswith("Normalize")
    place = f"{len(modules)}_Dense"
    entry = {"path": place, "type": "sentence_transformers.models.Dense"}
    modules.insert(len(modules) - is_normalized, entry)
    numbered = [module | {"idx": i, "name": str(i)} for i, module in enumerate(modules)]
    path.write_text(json.dumps(numbered, indent=2) + "\n", encoding="utf-8")
    config = {
        "in_features": weight.shape[0],
        "out_features": weight.shape[1],
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    (folder / place).mkdir()
    (folder / place / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {"linear.weight": np.ascontiguousarray(weight.T), "linear.bias": np.ascontiguousarray(bias)}
    save_file(tensors, folder / place / "model.safetensors", metadata={"format": "pt"})
