"""whit's float32 packages against the checkpoint's own framework: tiny models saved by transformers and sentence-transformers.

Needs torch, transformers and sentence-transformers (the ``[train]`` extra); they are imported inside the functions.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from tests.support.tiny import counts_from_padding, vocabulary, write_json, write_tokenizer
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.encoder_graph import OUTPUT, Head, build_graph
from whit.export.families import EncoderWeights, encoder_weights
from whit.export.linear import Plan
from whit.runtime.encoder import Encoder, open_session
from whit.runtime.package import open_package
from whit.runtime.packing import attention_length, micro_batches, pack
from whit.runtime.tokenizer import Tokenizer

FloatArray = NDArray[np.float32]

MIN_COSINE = 0.99999
MAX_ABS_DIFFERENCE = 5e-6

JOINED = ("cls+mean", "max+mean", "weighted_mean+max+mean_sqrt_len")
POOLINGS = ("mean", "cls", "max", "mean_sqrt_len", "weighted_mean", *JOINED, "pooler", "first_last", "ditto-1-2")

# What sentence-transformers calls those of its own that whit calls otherwise. It has none of the last three.
_THEIR_NAMES = {"mean_sqrt_len": "mean_sqrt_len_tokens", "weighted_mean": "weightedmean"}
_NOT_THEIRS = POOLINGS[-3:]
WITHOUT_POOLER = ("distilbert", "electra")

# Not a multiple of the attention bucket, and beyond the distance (128) from which MPNet's bias no longer changes.
MAX_TOKEN_COUNT = 150
BUCKET = 16

# transformers' configuration and model class, and what differs from ``_COMMON``. MiniLM is BERT with many narrow heads.
MODELS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "bert": ("BertConfig", "BertModel", {}),
    "minilm": ("BertConfig", "BertModel", {"hidden_size": 96, "num_attention_heads": 12, "intermediate_size": 192}),
    "roberta": ("RobertaConfig", "RobertaModel", {"type_vocab_size": 1}),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaModel", {"type_vocab_size": 1, "hidden_act": "gelu_new"}),
    "distilbert": ("DistilBertConfig", "DistilBertModel", {"dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 4}),
    "mpnet": ("MPNetConfig", "MPNetModel", {"num_attention_heads": 8}),
    "electra": ("ElectraConfig", "ElectraModel", {"embedding_size": 16}),
}
_COMMON = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


@dataclass(frozen=True, slots=True)
class Parity:
    """How close two sets of vectors are. Differences are of single values, as a share of the wanted vector's length."""

    min_cosine: float
    max_abs_difference: float

    @property
    def holds(self) -> bool:
        """Whether they are the same up to rounding. The cosine alone would let small mistakes pass."""
        return self.min_cosine >= MIN_COSINE and self.max_abs_difference <= MAX_ABS_DIFFERENCE


def compare(found: FloatArray, wanted: FloatArray) -> Parity:
    """Compares float32 [count, dimension] row by row."""
    lengths = np.linalg.norm(wanted.astype(np.float64), axis=1, keepdims=True)
    a, b = found / lengths, wanted / lengths
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1)
    return Parity(float(cosines.min()), float(np.abs(a - b).max()))


def mixed_texts(count: int) -> list[str]:
    """Texts of 1 to 180 words, mostly short, cut from the calibration text. Always the same."""
    source = resources.files("whit.export").joinpath("data/calibration.txt").read_text(encoding="utf-8").split()
    draw = random.Random(0)
    sizes = [draw.choice([draw.randint(1, 8), draw.randint(8, 30), draw.randint(30, 180)]) for _ in range(count)]
    starts = [draw.randrange(len(source) - size) for size in sizes]
    return [" ".join(source[start : start + size]) for start, size in zip(starts, sizes, strict=True)]


def odd_texts() -> list[str]:
    """Texts that differ in white space, case, accents and scripts: what a tokenizer may see or not see."""
    return [
        *(
            "hello there",
            " hello there",
            "hello there  ",
            "\n hello\tthere\n",
            "hello\u00a0there",
            "hello\r\n\r\nthere",
        ),
        *(
            "HELLO There",
            "Straße ÉCOLE İstanbul",
            "e\u0301cole",
            "ﬁn de siècle",
            "短い文。",
            "🙂 ok",
            "a\u200bb",
            "\ufefftext",
        ),
        *("[CLS] [SEP] [MASK]", "x" * 300, "...", "1e-9 <s> </s>"),
    ]


def byte_level_tokenizer() -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer as RoBERTa has one: it sees every space."""
    found = tokenizers.Tokenizer(tokenizers.models.BPE())
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    return _trained(found, tokenizers.trainers.BpeTrainer, initial_alphabet=alphabet)


def unigram_tokenizer() -> tokenizers.Tokenizer:
    """A Unigram tokenizer as XLM-RoBERTa has one."""
    found = tokenizers.Tokenizer(tokenizers.models.Unigram())
    found.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    return _trained(found, tokenizers.trainers.UnigramTrainer, unk_token="[UNK]")


def _trained(found: tokenizers.Tokenizer, trainer: Any, **options: Any) -> tokenizers.Tokenizer:
    special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    size = len(vocabulary("roberta")) - 10
    found.train_from_iterator(
        mixed_texts(50), trainer(vocab_size=size, special_tokens=special, show_progress=False, **options)
    )
    found.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    return found


def save_model(
    folder: Path, model: str, *, pooling: str, dense_sizes: Sequence[int] = (), normalize: bool = True
) -> Path:
    """Saves a tiny random model of one of ``MODELS`` the way sentence-transformers does."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as parts

    _save_encoder(folder / "encoder", model)
    torch.manual_seed(1)
    encoder = parts.Transformer(str(folder / "encoder"))
    size = encoder.get_embedding_dimension()
    theirs = ["mean"] if pooling in _NOT_THEIRS else [_THEIR_NAMES.get(part, part) for part in pooling.split("+")]
    modules: list[torch.nn.Module] = [encoder, parts.Pooling(size, theirs)]
    size *= len(theirs)
    for output in dense_sizes:
        modules.append(parts.Dense(size, output))
        size = output
    if normalize:
        modules.append(parts.Normalize())
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"), create_model_card=False)
    if pooling in _NOT_THEIRS:
        write_json(folder / "model" / "1_Pooling" / "config.json", {"pooling_mode": pooling})
    return folder / "model"


def _save_encoder(folder: Path, model: str) -> None:
    import torch
    import transformers

    config_name, model_name, changes = MODELS[model]
    offset = 2 if counts_from_padding(model) else 0
    config = getattr(transformers, config_name)(
        **{} if model == "distilbert" else _COMMON,
        vocab_size=len(vocabulary(model)),
        max_position_embeddings=MAX_TOKEN_COUNT + offset,
        pad_token_id=1 if offset else 0,
        initializer_range=0.2,
    )
    config.update(changes)
    torch.manual_seed(list(MODELS).index(model))
    encoder = getattr(transformers, model_name)(config)
    with torch.no_grad():
        # Biases begin at 0 and gains at 1: moved, so that one left out or misplaced shows.
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    encoder.save_pretrained(folder)
    write_tokenizer(folder, model, max_token_count=MAX_TOKEN_COUNT)


def reference_vectors(checkpoint: Path, texts: Sequence[str]) -> FloatArray:
    """What sentence-transformers gives, float32 [len(texts), dimension]; transformers, where they have no such pooling."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)  # of use to tiny models, and kind to whoever shares the machine
    pooling = json.loads((checkpoint / "1_Pooling" / "config.json").read_text()).get("pooling_mode")
    if pooling in _NOT_THEIRS:
        return _pooled_by_hand(checkpoint, texts, pooling)
    model = SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True)
    return np.asarray(model.encode(list(texts), batch_size=64, convert_to_numpy=True), np.float32)


def _pooled_by_hand(checkpoint: Path, texts: Sequence[str], pooling: str) -> FloatArray:
    """The definitions of the papers on what transformers returns, one text at a time, normalised."""
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    vectors = []
    for text in texts:
        tokens = tokenizer(text, truncation=True, max_length=MAX_TOKEN_COUNT, return_tensors="pt")
        with torch.no_grad():
            found = model(**tokens, output_hidden_states=True, output_attentions=True)
        if pooling == "pooler":
            vector = found.pooler_output[0]
        else:
            # hidden_states[0] are the embeddings.
            states = (found.hidden_states[1][0] + found.hidden_states[-1][0]) / 2
            shares = torch.ones(len(states))
            if pooling != "first_last":
                _, layer, head = pooling.split("-")
                shares = found.attentions[int(layer) - 1][0, int(head) - 1].diagonal()
            vector = (shares[:, None] * states).sum(0) / shares.sum()
        vectors.append((vector / vector.norm()).numpy())
    return np.stack(vectors)


def whit_vectors(folder: Path, texts: Sequence[str]) -> FloatArray:
    """What whit gives, float32 [len(texts), dimension]: compiled to a float32 package, tokenised and run by the runtime."""
    with TemporaryDirectory() as scratch:
        compile_checkpoint(folder, Path(scratch, "package"), ExportOptions(dtype="float32", name="tiny"))
        package = open_package(Path(scratch, "package"))
        limit, tokenizer = package.manifest.max_token_count, Tokenizer(package)
        return Encoder(package).encode([tokenizer.cut(ids, limit) for ids in tokenizer.encode(texts)])


def spoilt_vectors(folder: Path, texts: Sequence[str], spoil: Callable[[EncoderWeights], EncoderWeights]) -> FloatArray:
    """What whit's float32 graph gives when ``spoil`` has changed the weights first, float32 [len(texts), dimension]."""
    checkpoint = read_checkpoint(folder)
    weights = spoil(encoder_weights(checkpoint))
    head = Head(checkpoint.pooling, checkpoint.dense, checkpoint.normalize)
    session = open_session(build_graph(weights, head, Plan()).SerializeToString())
    checkpoint.tokenizer.enable_truncation(min(weights.max_token_count, MAX_TOKEN_COUNT))
    ids = [np.array(encoding.ids, np.int64) for encoding in checkpoint.tokenizer.encode_batch(list(texts))]
    vectors = np.zeros((len(texts), head.dimension_count(weights.hidden_count)), np.float32)
    length_of = partial(attention_length, bucket=BUCKET)
    for batch in micro_batches([len(sequence) for sequence in ids], length_of=length_of, token_budget=1024):
        length = length_of(len(ids[batch[0]]))
        feeds = pack([ids[i] for i in batch], length=length, position_offset=weights.position_offset)
        vectors[batch] = session.run([OUTPUT], feeds)[0]
    return vectors
