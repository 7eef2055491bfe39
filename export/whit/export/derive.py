"""Writes a checkpoint folder that was derived from another: every pruning, trimming and distilling step ends here.

The result is an ordinary sentence-transformers or Hugging Face folder, so that steps chain and other tools can read it.
``whit.json`` in it lists the steps that led there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors import SafetensorError
from safetensors.numpy import save_file

from whit.export.checkpoint import ROUNDING_FILE, Tensors
from whit.export.errors import CheckpointError
from whit.export.modules import encoder_folder
from whit.export.sealing import check_not_here, publish, why
from whit.export.trained import Rounding

STEPS_FILE = "whit.json"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.h5", "*.msgpack", "onnx", "openvino")


def derive_checkpoint(
    source: Path,
    out: Path,
    *,
    tensors: Tensors,
    config: Mapping[str, Any] | None = None,
    tokenizer: tokenizers.Tokenizer | None = None,
    tokenizer_config: Mapping[str, Any] | None = None,
    step: Mapping[str, Any],
    rounding: Rounding | None = None,
    keep_rounding: bool = False,
) -> None:
    """Writes ``out``: ``source`` with other encoder weights. It appears whole or not at all.

    Args:
        source: the checkpoint folder; everything but the encoder's weights is copied from it.
        out: where to write; an existing folder there is replaced if it was made by this function.
        tensors: all tensors of the encoder, float32, by their names in the checkpoint.
        config: fields of ``config.json`` that change.
        tokenizer: takes the place of ``tokenizer.json``; None: unchanged.
        tokenizer_config: with ``tokenizer``, fields of ``tokenizer_config.json`` that change.
        step: what was done and with which options, as plain JSON; appended to the list in ``whit.json``.
        rounding: how the int8 package will round the linear layers, if they were trained for it.
        keep_rounding: True where the linear layers are those of ``source``, and are to be rounded as they would be there.

    Raises:
        CheckpointError: ``out`` is something else, or cannot be written (no permission, disk full).
    """
    check_out(out, source)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
            new = Path(scratch, "new")
            encoder = encoder_folder(source)
            kept = {ROUNDING_FILE} if keep_rounding else set()
            copy_folder(source, new, ignore=lambda folder, names: _weights(Path(folder), names, encoder) - kept)
            _write_encoder(new / encoder.relative_to(source), tensors, config or {}, tokenizer, tokenizer_config or {})
            if rounding is not None:
                rounding.write(new)
            _write_json(new / STEPS_FILE, {"steps": [*read_steps(source), dict(step)]})
            publish(new, out)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk in its own way
        raise CheckpointError(f"{out} cannot be written ({why(error)}); free space or choose another --out") from None


def copy_folder(
    source: Path, target: Path, ignore: Callable[[str, list[str]], set[str]] = lambda folder, names: set()
) -> None:
    """Copies a folder's content so that it can be changed, even where the source may only be read."""
    shutil.copytree(source, target, ignore=ignore, copy_function=shutil.copyfile)
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        folder.chmod(folder.stat().st_mode | 0o700)


def check_out(out: Path, source: Path) -> None:
    """Raises CheckpointError where ``derive_checkpoint`` would not write: a long step asks before it begins."""
    check_not_here(out)
    inside, around = out.resolve(), source.resolve()
    if inside != around and (inside.is_relative_to(around) or around.is_relative_to(inside)):
        raise CheckpointError(f"{out} and the checkpoint {source} lie one in the other; choose another --out")
    if out.exists() and not (out / STEPS_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists and was not made by whit; choose another --out or remove it")
    place = next(folder for folder in out.absolute().parents if folder.exists())
    if not place.is_dir():
        raise CheckpointError(f"{out} cannot be written ({place} is a file); choose another --out")
    if not os.access(place, os.W_OK):
        raise CheckpointError(f"{out} cannot be written ({place} is read-only); choose another --out")


def read_steps(folder: Path) -> list[dict[str, Any]]:
    """The steps that led to a checkpoint folder, oldest first; empty for one that whit did not make.

    Raises:
        CheckpointError: the list is damaged.
    """
    path = folder / STEPS_FILE
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["steps"]) if path.is_file() else []
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{path} does not hold the steps that led there; copy the file again or remove it"
        ) from None


def _weights(folder: Path, names: list[str], encoder: Path) -> set[str]:
    """Names in the encoder's own folder that hold its weights, in any format: they would contradict the new ones."""
    if folder != encoder:
        return set()
    return {name for name in names if any(Path(name).match(pattern) for pattern in _WEIGHTS)}


def _write_encoder(
    folder: Path,
    tensors: Tensors,
    changes: Mapping[str, Any],
    tokenizer: tokenizers.Tokenizer | None,
    tokenizer_changes: Mapping[str, Any],
) -> None:
    plain = {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | dict(changes)
    # The weights are float32 now, whatever they were.
    config |= {key: "float32" for key in ("dtype", "torch_dtype") if key in config}
    _write_json(path, config)
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        for stale in ("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "added_tokens.json"):
            (folder / stale).unlink(missing_ok=True)
        _change_tokenizer_config(folder / "tokenizer_config.json", tokenizer, tokenizer_changes)


def _change_tokenizer_config(path: Path, tokenizer: tokenizers.Tokenizer, changes: Mapping[str, Any]) -> None:
    """Makes changes, and moves the ids that transformers keeps a second time and would believe rather than tokenizer.json."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    config |= changes
    if "added_tokens_decoder" in config:
        ids = {token.content: str(row) for row, token in tokenizer.get_added_tokens_decoder().items()}
        old = config["added_tokens_decoder"].values()
        config["added_tokens_decoder"] = {ids[t["content"]]: t for t in old if t["content"] in ids}
    if config:
        _write_json(path, config)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
