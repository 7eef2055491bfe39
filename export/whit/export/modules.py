"""What comes after the encoder in a sentence-transformers folder: ``modules.json`` and the pooling that it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whit.contract.pooling import POOLING_RULE, is_pooling
from whit.export.errors import CheckpointError
from whit.export.json_files import read_json, read_json_list

# sentence-transformers' names that are not whit's own; it joins the first five, which are flags, in this order.
_POOLINGS = {
    "cls_token": "cls",
    "max_tokens": "max",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean_tokens": "weighted_mean",
    "weightedmean": "weighted_mean",
}


@dataclass(frozen=True, slots=True)
class Modules:
    """Where a folder keeps its encoder, and what comes after it. ``pooling`` None: the folder does not say."""

    encoder: str = ""
    pooling: str | None = None
    dense: Sequence[Path] = ()  # folders, in order
    normalize: bool = True  # a bare Hugging Face folder does not say; unit length is what cosine search wants


def read_modules(folder: Path) -> Modules:
    """The modules of a sentence-transformers folder; for any other, an encoder without more.

    Raises:
        CheckpointError: a file is missing or unreadable, or a module cannot be compiled.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return Modules()
    encoder, poolings, dense, normalize = "", [], [], False
    for entry in read_json_list(path):
        kind, where = str(entry.get("type", "")).rpartition(".")[2], str(entry.get("path", ""))
        match kind:
            case "Transformer":
                encoder = where
            case "Pooling":
                poolings.append(_read_pooling(folder / where / "config.json"))
            case "Dense" if normalize:
                raise CheckpointError(
                    f"{path} has a Dense after Normalize; whit compiles Dense modules before Normalize only"
                )
            case "Dense":
                dense.append(folder / where)
            case "Normalize":
                refuse_rewiring(folder / where / "config.json")
                normalize = True
            case "Dropout":
                pass
            case _:
                raise CheckpointError(
                    f"{path} has a module of type {kind!r}; whit compiles Transformer, Pooling, Dense, Normalize"
                )
    if len(poolings) != 1:
        raise CheckpointError(f"{path} has {len(poolings)} Pooling modules; whit compiles exactly one")
    return Modules(encoder, poolings[0], tuple(dense), normalize)


def _read_pooling(path: Path) -> str:
    config = read_json(path)
    if config.get("include_prompt") is False:
        raise CheckpointError(
            f"{path} leaves the prompt out of the pooling (include_prompt false), which whit cannot compile"
        )
    mode = config.get("pooling_mode")
    if mode is None:
        names = [key.removeprefix("pooling_mode_") for key, on in config.items() if _is_mode(key) and on is True]
        names.sort(key=lambda name: list(_POOLINGS).index(name) if name in _POOLINGS else len(_POOLINGS))
    else:
        names = [str(name) for name in mode] if isinstance(mode, list) else [str(mode)]
    chosen = "+".join(_POOLINGS.get(name, name) for name in names)
    if not is_pooling(chosen):
        raise CheckpointError(f"{path} asks for pooling {chosen or 'none'}; whit compiles one of {POOLING_RULE}")
    return chosen


def _is_mode(key: str) -> bool:
    return key.startswith("pooling_mode_")


def refuse_rewiring(path: Path) -> None:
    """Refuses a Dense or Normalize module that does not simply map the sentence embedding to the next one."""
    config = read_json(path, missing_ok=True)
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise CheckpointError(f"{path}: {key} {config[key]!r} cannot be compiled; only 'sentence_embedding' can")
    if config.get("use_residual"):
        raise CheckpointError(f"{path}: use_residual cannot be compiled; save the model without it")


def encoder_folder(folder: Path) -> Path:
    """Where a checkpoint folder keeps the encoder's ``config.json``, weights and tokenizer: itself, or a folder in it."""
    return folder / read_modules(folder).encoder
