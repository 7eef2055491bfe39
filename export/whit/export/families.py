"""The BERT family: where each architecture keeps its weights.

All of them are one machine (post-layer-norm encoder with learned positions), so a family is a page of names: it takes
``config.json`` and the tensors and gives an ``EncoderWeights``. To add one, write such a function and put it in
``FAMILIES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whit.contract.pooling import pooling_parts
from whit.export.checkpoint import Checkpoint, FloatArray, Tensors
from whit.export.errors import CheckpointError
from whit.export.shape_checks import check_dense, check_shapes, check_tokens


@dataclass(frozen=True, slots=True)
class Linear:
    """``x @ weight + bias``: weight float32 [in, out], bias float32 [out]."""

    weight: FloatArray
    bias: FloatArray


@dataclass(frozen=True, slots=True)
class Norm:
    """LayerNorm: gain and bias float32 [hidden]."""

    gain: FloatArray
    bias: FloatArray


@dataclass(frozen=True, slots=True)
class Layer:
    """One encoder layer. ``qkv`` is [hidden, 3 * hidden]: query, key and value side by side."""

    qkv: Linear
    out: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    output_norm: Norm
    ceiling: float | None = None  # what enters ``down`` is cut off at it (see ``outliers``)


@dataclass(frozen=True, slots=True)
class LayerNames:
    """Where a checkpoint keeps its layers: the tensors of layer ``i`` lie below ``{stack}.{i}``, under these names."""

    stack: str
    query: str
    key: str
    value: str
    out: str
    attention_norm: str
    up: str
    down: str
    output_norm: str
    layer_count: str = "num_hidden_layers"  # fields of config.json
    inner_count: str = "intermediate_size"


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """A post-layer-norm encoder, whatever the architecture called its parts."""

    architecture: str
    words: FloatArray  # [vocabulary, embedding]
    positions: FloatArray  # [positions, embedding], the first token type added
    embedding_norm: Norm
    layers: Sequence[Layer]
    head_count: int
    activation: str  # "gelu", "gelu_tanh" or "relu"
    epsilon: float
    position_offset: int = 0  # position id of the first token
    projection: Linear | None = None  # embedding -> hidden, where they differ (ELECTRA)
    relative_bias: FloatArray | None = None  # [buckets, heads] (MPNet)

    @property
    def hidden_count(self) -> int:
        """Width of the hidden states."""
        return int(self.layers[0].qkv.weight.shape[0])

    @property
    def head_width(self) -> int:
        """Width of one attention head. Pruned layers have fewer heads than ``head_count``, of the same width."""
        return self.hidden_count // self.head_count

    def heads_of(self, layer: Layer) -> int:
        """Attention heads that a layer has."""
        return int(layer.qkv.weight.shape[1]) // (3 * self.head_width)

    @property
    def max_token_count(self) -> int:
        """Tokens for which there are positions."""
        return len(self.positions) - self.position_offset


def encoder_weights(checkpoint: Checkpoint) -> EncoderWeights:
    """The weights of a checkpoint in the common form.

    Raises:
        CheckpointError: unknown architecture, a tensor is missing or has the wrong shape, those of Dense modules among them, or
            the tokenizer has more tokens than the weights.
    """
    family = FAMILIES.get(checkpoint.model_type)
    if family is None:
        raise CheckpointError(f"config.json: model_type {checkpoint.model_type!r} is not one of {', '.join(FAMILIES)}")
    kind = checkpoint.config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise CheckpointError(f"config.json: position_embedding_type {kind!r} is not supported; only 'absolute' is")
    if checkpoint.config.get("is_decoder"):
        raise CheckpointError(
            "config.json: is_decoder is true; whit compiles encoders, whose attention sees the whole text"
        )
    weights = family(Settings(checkpoint.config), Source(checkpoint.tensors))
    check_shapes(weights)
    check_tokens(checkpoint, weights)
    check_dense(checkpoint.dense, weights.hidden_count * len(pooling_parts(checkpoint.pooling)))
    return weights


class Settings:
    """``config.json`` with errors that say which field is missing or wrong."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def count(self, name: str) -> int:
        """A positive whole number."""
        value = self._config.get(name)
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(
                f"config.json: {name} must be a positive integer, got {value!r}; is this checkpoint complete?"
            )
        return value

    def epsilon(self, name: str) -> float:
        """A positive number."""
        value = self._config.get(name)
        if not isinstance(value, int | float) or not value > 0:
            raise CheckpointError(
                f"config.json: {name} must be a positive number, got {value!r}; is this checkpoint complete?"
            )
        return float(value)

    def activation(self, name: str) -> str:
        """The activation, under whit's name for it."""
        value = self._config.get(name)
        if str(value) not in ACTIVATIONS:
            raise CheckpointError(f"config.json: {name} {value!r} is not one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[str(value)]

    @property
    def model_type(self) -> str:
        """The architecture."""
        return str(self._config["model_type"])

    @property
    def padding_id(self) -> int:
        """The id from which RoBERTa counts its positions."""
        value = self._config.get("pad_token_id")
        if value is not None and (not isinstance(value, int) or value < 0):
            raise CheckpointError(f"config.json: pad_token_id must be a token's id, got {value!r}; correct it there")
        return 1 if value is None else value


class Source:
    """Tensors by name, below whatever prefix the checkpoint has (``bert.``, ``model.``, none)."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        ends = [name.removesuffix("embeddings.word_embeddings.weight") for name in tensors]
        self._prefix = next((p for p, name in zip(ends, tensors, strict=True) if p != name), "")

    @property
    def prefix(self) -> str:
        """What comes before every name."""
        return self._prefix

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._tensors

    def array(self, name: str) -> FloatArray:
        """One tensor."""
        try:
            return self._tensors[self._prefix + name]
        except KeyError:
            raise CheckpointError(
                f"the weights have no tensor {self._prefix + name!r}; is this checkpoint complete?"
            ) from None

    def table(self, name: str, width: int | None = None) -> FloatArray:
        """An embedding table, [rows, width]."""
        found = self.array(f"embeddings.{name}.weight")
        if found.ndim != 2 or found.shape[1] != (width or found.shape[1]):
            raise CheckpointError(
                f"the {name} have shape {list(found.shape)}, expected [rows, {width or 'width'}]; is this checkpoint complete?"
            )
        return found

    def linear(self, *names: str) -> Linear:
        """One linear layer, or several side by side. Checkpoints keep [out, in]; we keep [in, out]."""
        weights = [self.array(f"{name}.weight").T for name in names]
        biases = [self.array(f"{name}.bias") for name in names]
        for name, weight, bias in zip(names, weights, biases, strict=True):
            if weight.ndim != 2 or len(weight) != len(weights[0]) or bias.shape != weight.shape[1:]:
                raise CheckpointError(
                    f"the weights of {self._prefix + name!r} have the wrong shape; is this checkpoint complete?"
                )
        return Linear(np.ascontiguousarray(np.concatenate(weights, axis=1)), np.concatenate(biases))

    def norm(self, name: str) -> Norm:
        """One LayerNorm."""
        gain, bias = self.array(f"{name}.weight"), self.array(f"{name}.bias")
        if gain.shape != bias.shape:
            raise CheckpointError(
                f"gain and bias of {self._prefix + name!r} differ in shape; is this checkpoint complete?"
            )
        return Norm(gain, bias)

    def layer(self, names: LayerNames, i: int) -> Layer:
        """Encoder layer ``i``."""
        at = f"{names.stack}.{i}"
        return Layer(
            qkv=self.linear(*(f"{at}.{part}" for part in (names.query, names.key, names.value))),
            out=self.linear(f"{at}.{names.out}"),
            attention_norm=self.norm(f"{at}.{names.attention_norm}"),
            up=self.linear(f"{at}.{names.up}"),
            down=self.linear(f"{at}.{names.down}"),
            output_norm=self.norm(f"{at}.{names.output_norm}"),
        )

    def layers(self, names: LayerNames, count: int) -> list[Layer]:
        """The first ``count`` encoder layers; those with the same weights are one object, a layer that is run several times."""
        found: list[Layer] = []
        for i in range(count):
            layer = self.layer(names, i)
            found.append(next((other for other in found if _same(layer, other)), layer))
        return found


def _same(one: Layer, other: Layer) -> bool:
    """Whether two layers, as they were read, have the same weights."""
    parts = [(getattr(one, name), getattr(other, name)) for name in ("qkv", "out", "up", "down")]
    norms = [(getattr(one, name), getattr(other, name)) for name in ("attention_norm", "output_norm")]
    return all(np.array_equal(a.weight, b.weight) and np.array_equal(a.bias, b.bias) for a, b in parts) and all(
        np.array_equal(a.gain, b.gain) and np.array_equal(a.bias, b.bias) for a, b in norms
    )


BERT_LAYER = LayerNames(
    stack="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)
MPNET_LAYER = replace(
    BERT_LAYER,
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    out="attention.attn.o",
    attention_norm="attention.LayerNorm",
)
DISTILBERT_LAYER = LayerNames(
    stack="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    out="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    output_norm="output_layer_norm",
    layer_count="n_layers",
    inner_count="hidden_dim",
)


def bert(config: Settings, source: Source) -> EncoderWeights:
    """BERT and MiniLM; with other position ids also RoBERTa and XLM-RoBERTa; with a projection ELECTRA."""
    words = source.table("word_embeddings")
    first_type = source.table("token_type_embeddings", words.shape[1])[0]
    return EncoderWeights(
        architecture=config.model_type,
        words=words,
        positions=source.table("position_embeddings", words.shape[1]) + first_type,
        embedding_norm=source.norm("embeddings.LayerNorm"),
        projection=source.linear("embeddings_project") if "embeddings_project.weight" in source else None,
        layers=source.layers(BERT_LAYER, config.count("num_hidden_layers")),
        head_count=config.count("num_attention_heads"),
        activation=config.activation("hidden_act"),
        epsilon=config.epsilon("layer_norm_eps"),
        position_offset=config.padding_id + 1 if "roberta" in config.model_type else 0,
    )


def distilbert(config: Settings, source: Source) -> EncoderWeights:
    """DistilBERT: no token types."""
    words = source.table("word_embeddings")
    return EncoderWeights(
        architecture="distilbert",
        words=words,
        positions=source.table("position_embeddings", words.shape[1]),
        embedding_norm=source.norm("embeddings.LayerNorm"),
        layers=source.layers(DISTILBERT_LAYER, config.count("n_layers")),
        head_count=config.count("n_heads"),
        activation=config.activation("activation"),
        epsilon=1e-12,
    )


def mpnet(config: Settings, source: Source) -> EncoderWeights:
    """MPNet: one relative position bias, shared by all layers."""
    words = source.table("word_embeddings")
    return EncoderWeights(
        architecture="mpnet",
        words=words,
        positions=source.table("position_embeddings", words.shape[1]),
        embedding_norm=source.norm("embeddings.LayerNorm"),
        layers=source.layers(MPNET_LAYER, config.count("num_hidden_layers")),
        head_count=config.count("num_attention_heads"),
        activation=config.activation("hidden_act"),
        epsilon=config.epsilon("layer_norm_eps"),
        position_offset=2,  # transformers counts from a fixed padding id of 1 here, whatever config.json says
        relative_bias=source.array("encoder.relative_attention_bias.weight"),
    )


FAMILIES: Mapping[str, Callable[[Settings, Source], EncoderWeights]] = {
    "bert": bert,
    "roberta": bert,
    "xlm-roberta": bert,
    "electra": bert,
    "distilbert": distilbert,
    "mpnet": mpnet,
}

LAYER_NAMES: Mapping[str, LayerNames] = {
    "bert": BERT_LAYER,
    "roberta": BERT_LAYER,
    "xlm-roberta": BERT_LAYER,
    "electra": BERT_LAYER,
    "distilbert": DISTILBERT_LAYER,
    "mpnet": MPNET_LAYER,
}


ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
