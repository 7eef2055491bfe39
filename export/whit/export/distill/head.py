"""A checkpoint folder with one more Dense in its head."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from whit.export.checkpoint import FloatArray
from whit.export.derive import copy_folder
from whit.export.errors import CheckpointError
from whit.export.sealing import why


@contextmanager
def with_dense(source: Path, dense: tuple[FloatArray, FloatArray] | None, *, pooling: str) -> Iterator[Path]:
    """Gives a copy of ``source`` whose head ends in a Dense (weight [in, out], bias [out]); ``source`` itself for None.

    The Dense comes before the normalisation, where there is one. The copy is gone afterwards. A folder that does not say
    how it pools (a bare Hugging Face one) pools by ``pooling`` and normalises from then on.

    Raises:
        CheckpointError: the copy cannot be written.
    """
    if dense is None:
        yield source
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "checkpoint")
        try:
            copy_folder(source, copy)
            if not (copy / "modules.json").is_file():
                _write_modules(copy, pooling)
            _append(copy, *dense)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"a copy of {source} cannot be written in {scratch} ({why(error)}); free space there, or set TMPDIR to "
                "another folder"
            ) from None
        yield copy


def _write_modules(folder: Path, pooling: str) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}) + "\n", encoding="utf-8")
    places = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    modules = [{"path": place, "type": f"sentence_transformers.models.{kind}"} for kind, place in places]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


def _append(folder: Path, weight: FloatArray, bias: FloatArray) -> None:
    path = folder / "modules.json"
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
