"""Reads a sentence-transformers or Hugging Face folder. No torch: weights come from safetensors as numpy arrays.

Owns the question "what is in this folder": configuration, tensors, tokenizer, pooling, dense heads, prompts, limits.
Knows nothing of graphs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (teaches numpy bfloat16, in which many checkpoints are saved)
import numpy as np
import tokenizers
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from whit.contract.manifest import MANIFEST_FILE
from whit.contract.pooling import POOLING_RULE, is_pooling
from whit.export.errors import CheckpointError, OptionError
from whit.export.json_files import read_json
from whit.export.license import read_license
from whit.export.modules import read_modules, refuse_rewiring
from whit.export.tokenizer_settings import lower_case, obey_config

# Beside the weights where ``whit distill --qat`` trained them; ``whit.export.trained`` has what is in it.
ROUNDING_FILE = "rounding.safetensors"

FloatArray = NDArray[np.float32]
Tensors = Mapping[str, FloatArray]

_ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
}

# Fields of config.json that say where a model comes from or what it was trained for, not what it computes.
INCIDENTAL_FIELDS = frozenset(
    ("_name_or_path", "architectures", "dtype", "matryoshka_dims", "torch_dtype", "transformers_version")
)

_OLD_NAMES = {"gamma": "weight", "beta": "bias"}


@dataclass(frozen=True, slots=True)
class Dense:
    """A sentence-transformers ``Dense`` module: ``activation(x @ weight + bias)``; weight float32 [in, out]."""

    weight: FloatArray
    bias: FloatArray | None
    activation: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint folder, read."""

    name: str
    config: Mapping[str, Any]
    tensors: Tensors
    tokenizer: tokenizers.Tokenizer
    pooling: str
    normalize: bool
    max_token_count: int | None  # as the checkpoint states it; None where it does not
    dense: Sequence[Dense] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    matryoshka_dimension_counts: Sequence[int] = ()
    license: str = "unknown"
    license_files: Sequence[Path] = ()
    notes: Sequence[str] = ()  # where whit, or the folder itself, is not what it may be taken for; a sentence each
    sha256: str = ""  # over all that decides vectors, as read: see ``_hash``

    @property
    def model_type(self) -> str:
        """The architecture as ``config.json`` names it, such as ``bert``."""
        return str(self.config.get("model_type", ""))


def read_checkpoint(folder: Path, *, pooling: str | None = None) -> Checkpoint:
    """Reads a checkpoint folder.

    Args:
        folder: holds ``config.json``, ``*.safetensors``, ``tokenizer.json`` and, from sentence-transformers,
            ``modules.json`` and the module folders it names.
        pooling: one of ``whit.contract.pooling.POOLINGS``, for a folder that does not say; ``mean`` if neither does.

    Raises:
        CheckpointError: a file is missing or unreadable, or asks for something that cannot be compiled.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give the folder that holds config.json and model.safetensors")
    if (folder / MANIFEST_FILE).is_file():
        raise CheckpointError(f"{folder} is a package; give the checkpoint folder that it was made from")
    modules = read_modules(folder)
    encoder = folder / modules.encoder
    config = read_json(encoder / "config.json")
    settings = read_json(encoder / "sentence_bert_config.json", missing_ok=True)
    extras = read_json(folder / "config_sentence_transformers.json", missing_ok=True)
    tensors = _read_tensors(_weight_files(encoder))
    tokenizer = _read_tokenizer(encoder)
    tokenizer_config = read_json(encoder / "tokenizer_config.json", missing_ok=True)
    notes = obey_config(tokenizer, tokenizer_config, config)
    if settings.get("do_lower_case"):
        lower_case(tokenizer)
    prompts = _prompts(extras, folder)
    chosen = _choose_pooling(modules.pooling, pooling)
    dense = [_pooler(tensors)] if chosen == "pooler" else []
    license_name, license_files = read_license(folder)
    found = Checkpoint(
        name=folder.resolve().name,
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        pooling=chosen,
        normalize=modules.normalize,
        max_token_count=_max_token_count(
            encoder, tokenizer_config | settings, tokenizer.num_special_tokens_to_add(is_pair=False)
        ),
        dense=(*dense, *(_read_dense(path) for path in modules.dense)),
        prompts=prompts,
        matryoshka_dimension_counts=_matryoshka(config, extras, folder),
        license=license_name,
        license_files=license_files,
        notes=(*notes, *_prompt_notes(extras, prompts, folder), *_length_notes(extras)),
    )
    return replace(found, sha256=_hash(found, encoder / ROUNDING_FILE))


def _choose_pooling(stated: str | None, asked: str | None) -> str:
    """The pooling that the checkpoint states, or else the one asked for, or else ``mean``."""
    if asked and not is_pooling(asked):
        raise OptionError("pooling", f"must be one of {POOLING_RULE}, got {asked!r}")
    if stated and asked and stated != asked:
        raise CheckpointError(f"the checkpoint pools by {stated!r}; leave out --pooling {asked}")
    return stated or asked or "mean"


def _pooler(tensors: Tensors) -> Dense:
    """BERT's pooler: a dense layer and tanh on the first token's state."""
    name = next((name for name in tensors if name.endswith("pooler.dense.weight")), None)
    if name is None:
        raise CheckpointError(
            "the weights have no tensor 'pooler.dense.weight', so pooling 'pooler' cannot be compiled; choose another"
        )
    bias = tensors.get(name.removesuffix("weight") + "bias")
    return Dense(np.ascontiguousarray(tensors[name].T), bias, "tanh")


def _read_dense(folder: Path) -> Dense:
    path = folder / "config.json"
    config = read_json(path)
    refuse_rewiring(path)
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if name not in _ACTIVATIONS:
        raise CheckpointError(f"{path}: activation_function {name!r} is not one of {', '.join(_ACTIVATIONS)}")
    files = _weight_files(folder)
    tensors = _read_tensors(files)
    if "linear.weight" not in tensors:
        raise CheckpointError(f"{files[0]} has no tensor 'linear.weight'; copy all files of the checkpoint")
    return Dense(np.ascontiguousarray(tensors["linear.weight"].T), tensors.get("linear.bias"), _ACTIVATIONS[name])


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        files = [folder / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
        missing = [path for path in files if not path.is_file()]
        if missing or not files:
            raise CheckpointError(f"{missing[0] if missing else index} is missing; copy all files of the checkpoint")
        return files
    if list(folder.glob("*.bin")):
        raise CheckpointError(
            f"{folder} holds pickled weights (*.bin), which can run code when loaded and are refused; "
            "save the model as safetensors: model.save_pretrained(folder, safe_serialization=True)"
        )
    raise CheckpointError(f"{single} is missing; give a folder with safetensors weights")


def _read_tensors(files: Sequence[Path]) -> Tensors:
    tensors: dict[str, FloatArray] = {}
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118  (safe_open is not a mapping)
                    array = file.get_tensor(key)
                    if array.dtype.kind not in "iub":
                        tensors[_named_today(key)] = _finite(np.asarray(array, np.float32), key, path)
        except (SafetensorError, OSError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); copy the file again or save it as float32 safetensors"
            ) from error
    return tensors


def _named_today(key: str) -> str:
    """A tensor's name; checkpoints from TensorFlow's day, bert-base-uncased among them, call what a LayerNorm has gamma and beta."""
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda found: f"LayerNorm.{_OLD_NAMES[found[1]]}", key)


def _finite(array: FloatArray, key: str, path: Path) -> FloatArray:
    if not np.isfinite(array).all():
        raise CheckpointError(
            f"{path}: {key} has values that are not finite; copy the file again or train the model anew"
        )
    return array


def _read_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; make it with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{path} cannot be read ({error}); copy the file again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _prompts(extras: Mapping[str, Any], folder: Path) -> dict[str, str]:
    prompts = extras.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise CheckpointError(
            f"{folder / 'config_sentence_transformers.json'}: prompts must be an object of texts by role, got {prompts!r}"
        )
    for role, prompt in prompts.items():
        if not isinstance(prompt, str | None):
            raise CheckpointError(
                f"{folder / 'config_sentence_transformers.json'}: prompts: {role!r} must be a text, got {prompt!r}; correct it there"
            )
    return {role: prompt or "" for role, prompt in prompts.items()}


def _prompt_notes(extras: Mapping[str, Any], prompts: Mapping[str, str], folder: Path) -> Sequence[str]:
    """Says so where sentence-transformers puts a prompt before texts for which none is named: whit never does."""
    name = str(extras.get("default_prompt_name") or "")
    if name and name not in prompts:
        raise CheckpointError(
            f"{folder / 'config_sentence_transformers.json'}: default_prompt_name {name!r} is none of its prompts "
            f"({', '.join(prompts) or 'it has none'}); correct it there"
        )
    if not prompts.get(name):
        return ()
    said = f"sentence-transformers puts the prompt {name!r} before texts for which none is named (default_prompt_name); whit"
    return (f"{said} puts one there only if it is asked to: whit embed --role {name}",)


def _length_notes(extras: Mapping[str, Any]) -> Sequence[str]:
    """Says so where sentence-transformers gives fewer dimensions than the model has."""
    count = extras.get("truncate_dim")
    if not count:
        return ()
    said = f"sentence-transformers cuts this model's vectors to {count} dimensions (truncate_dim); whit"
    return (f"{said} gives all of them unless it is asked for fewer: whit embed --dimensions {count}",)


def _matryoshka(config: Mapping[str, Any], extras: Mapping[str, Any], folder: Path) -> tuple[int, ...]:
    counts = config.get("matryoshka_dims") or extras.get("matryoshka_dims") or []
    if not isinstance(counts, list) or not all(type(count) is int and count > 0 for count in counts):
        raise CheckpointError(
            f"{folder}: matryoshka_dims must be a list of positive integers, got {counts!r}; correct it"
        )
    return tuple(counts)


def _max_token_count(folder: Path, settings: Mapping[str, Any], special_count: int) -> int | None:
    for name in ("max_seq_length", "model_max_length"):
        value = settings.get(name)
        if isinstance(value, int | float) and 0 < value < 1e6:  # transformers writes 1e30 for "no limit"
            if value <= special_count:
                raise CheckpointError(
                    f"{folder}: {name} {value} leaves no room for a text beside the tokenizer's {special_count} special "
                    "tokens; state a larger one"
                )
            return int(value)
    return None


def _hash(found: Checkpoint, rounding: Path) -> str:
    """Over all that decides vectors: weights and how they will be rounded, Dense modules, and every setting as it was read.

    It is not over files, which hold much that decides none, and of which several may say the same.
    """
    settings = {
        "config": {key: value for key, value in found.config.items() if key not in INCIDENTAL_FIELDS},
        "tokenizer": found.tokenizer.to_str(),
        "pooling": found.pooling,
        "activations": [dense.activation for dense in found.dense],
        "normalize": found.normalize,
        "max_token_count": found.max_token_count,
        "prompts": found.prompts,
    }
    arrays = dict(found.tensors)
    for number, dense in enumerate(found.dense):
        arrays[f"dense {number} weight"] = dense.weight
        if dense.bias is not None:
            arrays[f"dense {number} bias"] = dense.bias
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    if rounding.is_file():
        digest.update(b"\nrounding " + rounding.read_bytes())
    return "sha256:" + digest.hexdigest()
