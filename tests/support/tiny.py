"""Tiny checkpoints with random weights, made without torch: every part of the compiler and the server runs on them in
milliseconds, and no model has to be fetched.

``write_checkpoint(folder, "mpnet")`` writes what sentence-transformers would have saved for a model of that family.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "electra")
MAX_TOKEN_COUNT = 64

Tensors = dict[str, NDArray[np.float32]]

_WORDS = """
the of and to in is that it for was on are as with at be this have from or one had by but not what all were when we there
can an your which their said if do will each about how up out them then she many some so these would other into has more
her two like him see time could no make than first been its who now people my made over did down only way find use may
water long little very after words called just where most know get through back much before go good new write our used
me man too any day same right look think also around another came come work three word must because does part even place
well such here take why things help put years different away again off went old number great tell men say small every
found still between name should home big give air line set own under read last never us left end along while might next
sound below saw something thought both few those always looked show large often together asked house world going want
school important until form food keep children feet land side without boy once animals life enough took sometimes four
head above kind began almost live page got earth need far hand high year mother light parts country father let night
picture being study second eyes soon times story boys since white days ever paper hard near sentence better best across
during today others however sure means knew try told young miles sun ways thing whole hear example heard several change
answer room sea against top turned learn point city play toward five using himself usually money file error server text
##s ##ed ##ing ##er ##ly ##es ##al ##en ##on ##y
"""


def vocabulary(family: str = "bert") -> dict[str, int]:
    """Token -> id: special tokens, characters, common English words. Any ASCII text tokenises without ``[UNK]``."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if counts_from_padding(family):
        special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    letters = string.ascii_lowercase + string.digits
    tokens = [*special, *string.punctuation, *letters, *(f"##{c}" for c in letters), *_WORDS.split()]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def counts_from_padding(family: str) -> bool:
    """Whether position ids begin after the padding id, which is 1, as in RoBERTa."""
    return family in ("roberta", "xlm-roberta", "mpnet")


def tokenizer(family: str = "bert") -> Tokenizer:
    """A WordPiece tokenizer that puts ``[CLS]`` before and ``[SEP]`` after a text."""
    ids = vocabulary(family)
    found = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=40))
    found.normalizer = BertNormalizer(lowercase=True)
    found.pre_tokenizer = BertPreTokenizer()
    found.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    found.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return found


def write_tokenizer(folder: Path, family: str = "bert", *, max_token_count: int = MAX_TOKEN_COUNT) -> None:
    """Writes ``tokenizer.json`` and what transformers needs beside it."""
    tokenizer(family).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_token_count}
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    write_json(folder / "tokenizer_config.json", config | special)


def write_checkpoint(
    folder: Path,
    family: str = "bert",
    *,
    pooling: str | None = "mean",
    normalize: bool = True,
    dense_sizes: Sequence[int] = (),
    prompts: Mapping[str, str] | None = None,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Writes a checkpoint and returns its folder.

    Args:
        folder: made if it is not there.
        family: one of ``FAMILIES``.
        pooling: one of ``whit.contract.pooling.POOLINGS``; with None the folder is a bare Hugging Face one, without
            ``modules.json``.
        normalize: whether the model ends in a ``Normalize`` module.
        dense_sizes: output size of each ``Dense`` module (tanh) after the pooling.
        prompts: role -> prompt, for ``config_sentence_transformers.json``.
        seed: of the weights; the same arguments give the same bytes.
        changes: put over the fields of ``config.json``, such as ``num_attention_heads=2``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(family) | changes
    write_json(folder / "config.json", config)
    tensors = encoder_tensors(family, config, seed)
    if pooling == "pooler":
        pooler = _Tensors(seed + 1)
        pooler.linear("pooler.dense", int(config["hidden_size"]), int(config["hidden_size"]))
        tensors |= pooler.found
    save_file(tensors, folder / "model.safetensors")
    write_tokenizer(folder, family)
    if pooling is not None:
        size = int(config.get("hidden_size") or config["dim"])
        _write_modules(folder, size, pooling, normalize, dense_sizes, seed)
    if prompts is not None:
        write_json(folder / "config_sentence_transformers.json", {"prompts": dict(prompts)})
    return folder


def config_of(family: str) -> dict[str, Any]:
    """``config.json`` of a tiny model: hidden 32, 2 layers, 4 heads."""
    offset = 2 if counts_from_padding(family) else 0
    common: dict[str, Any] = {
        "model_type": family,
        "vocab_size": len(vocabulary(family)),
        "max_position_embeddings": MAX_TOKEN_COUNT + offset,
        "pad_token_id": 1 if offset else 0,
    }
    if family == "distilbert":
        return common | {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "activation": "gelu"}
    config = common | {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12 if family in ("bert", "electra") else 1e-5,
    }
    match family:
        case "mpnet":
            return config | {"relative_attention_num_buckets": 32}
        case "electra":
            return config | {"embedding_size": 16, "type_vocab_size": 2}
        case "bert":
            return config | {"type_vocab_size": 2}
        case _:
            return config | {"type_vocab_size": 1}


def encoder_tensors(family: str, config: Mapping[str, Any], seed: int = 0) -> Tensors:
    """Random tensors under the names that transformers gives them."""
    return _Tensors(seed).encoder(family, config)


class _Tensors:
    """Draws tensors. Nothing is zero and no gain is one, so that a part left out or misplaced changes the vectors."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.found: Tensors = {}

    def encoder(self, family: str, config: Mapping[str, Any]) -> Tensors:
        hidden = int(config.get("hidden_size", config.get("dim", 0)))
        inner = int(config.get("intermediate_size", config.get("hidden_dim", 0)))
        embedding = int(config.get("embedding_size", hidden))
        self.table("embeddings.word_embeddings", config["vocab_size"], embedding)
        self.table("embeddings.position_embeddings", config["max_position_embeddings"], embedding)
        if "type_vocab_size" in config:
            self.table("embeddings.token_type_embeddings", config["type_vocab_size"], embedding)
        self.norm("embeddings.LayerNorm", embedding)
        if embedding != hidden:
            self.linear("embeddings_project", embedding, hidden)
        if family == "mpnet":
            self.table("encoder.relative_attention_bias", 32, int(config["num_attention_heads"]))
        for i in range(int(config.get("num_hidden_layers", config.get("n_layers", 0)))):
            qkv, out, first_norm, up, down, last_norm = _layer_names(family, i)
            for name in (*qkv, out):
                self.linear(name, hidden, hidden)
            self.norm(first_norm, hidden)
            self.linear(up, hidden, inner)
            self.linear(down, inner, hidden)
            self.norm(last_norm, hidden)
        return self.found

    def table(self, name: str, rows: int, columns: int) -> None:
        self._draw(f"{name}.weight", (rows, columns), 0.5)

    def linear(self, name: str, inputs: int, outputs: int) -> None:
        self._draw(f"{name}.weight", (outputs, inputs), inputs**-0.5)
        self._draw(f"{name}.bias", (outputs,), 0.2)

    def norm(self, name: str, size: int) -> None:
        self._draw(f"{name}.weight", (size,), 0.2, mean=1)
        self._draw(f"{name}.bias", (size,), 0.2)

    def _draw(self, name: str, shape: tuple[int, ...], spread: float, mean: float = 0) -> None:
        self.found[name] = (mean + spread * self._random.standard_normal(shape)).astype(np.float32)


def _layer_names(family: str, i: int) -> tuple[list[str], str, str, str, str, str]:
    """Names of one layer's query, key and value; attention output; norm; up; down; norm."""
    if family == "distilbert":
        at = f"transformer.layer.{i}"
        qkv = [f"{at}.attention.{part}_lin" for part in "qkv"]
        return (
            qkv,
            f"{at}.attention.out_lin",
            f"{at}.sa_layer_norm",
            f"{at}.ffn.lin1",
            f"{at}.ffn.lin2",
            f"{at}.output_layer_norm",
        )
    at = f"encoder.layer.{i}"
    ends = f"{at}.intermediate.dense", f"{at}.output.dense", f"{at}.output.LayerNorm"
    if family == "mpnet":
        qkv = [f"{at}.attention.attn.{part}" for part in "qkv"]
        return qkv, f"{at}.attention.attn.o", f"{at}.attention.LayerNorm", *ends
    qkv = [f"{at}.attention.self.{part}" for part in ("query", "key", "value")]
    return qkv, f"{at}.attention.output.dense", f"{at}.attention.output.LayerNorm", *ends


def _write_modules(
    folder: Path, size: int, pooling: str, normalize: bool, dense_sizes: Sequence[int], seed: int
) -> None:
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modes = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}
    stated: dict[str, object] = {mode: name == pooling for name, mode in modes.items()}
    if pooling not in modes:
        stated = {"pooling_mode": pooling}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": size} | stated)
    size *= len(pooling.split("+"))
    for output in dense_sizes:
        modules.append(("Dense", f"{len(modules)}_Dense"))
        write_dense(folder / modules[-1][1], size, output, seed=seed + len(modules))
        size = output
    if normalize:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(modules)
        ],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKEN_COUNT, "do_lower_case": False})


def write_dense(
    folder: Path, inputs: int, outputs: int, *, activation: str = "torch.nn.modules.activation.Tanh", seed: int = 1
) -> None:
    """Writes a sentence-transformers ``Dense`` module."""
    tensors = _Tensors(seed)
    tensors.linear("linear", inputs, outputs)
    config = {"in_features": inputs, "out_features": outputs, "bias": True, "activation_function": activation}
    write_json(folder / "config.json", config)
    save_file(tensors.found, folder / "model.safetensors")


def write_json(path: Path, content: object) -> None:
    """Writes JSON, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_json(path: Path, **changes: object) -> None:
    """Changes fields of a JSON file, which need not be there."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, content | changes)
