"""The student: any checkpoint that whit compiles, as a torch computation over its own tensors.

Written out here rather than loaded with transformers: layers may have unequal widths after pruning, and plain attention
trains twice as fast on a CPU as the fused kernels do. On a GPU it is the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from whit.contract.pooling import ditto_head, pooling_parts
from whit.export.checkpoint import Checkpoint, FloatArray
from whit.export.distill.qat import FakeRounding, round_rows
from whit.export.encoder_graph import relative_buckets
from whit.export.errors import CheckpointError
from whit.export.families import LAYER_NAMES, EncoderWeights, Linear, Source, encoder_weights
from whit.export.trained import Rounding, place
from whit.runtime.packing import TokenIds


@dataclass(frozen=True, slots=True)
class Encoded:
    """Outcome of one batch of B texts, the longest of S tokens."""

    vectors: Tensor  # float32 [B, d]
    hidden: Sequence[Tensor]  # [B, S, h] after each layer
    mask: Tensor  # float32 [B, S], 1 for tokens


class Student:
    """A checkpoint's encoder and head. ``tensors`` holds the encoder's weights under the checkpoint's names."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device | None = None) -> None:
        if ditto_head(checkpoint.pooling):
            raise CheckpointError(
                f"a model that pools by {checkpoint.pooling!r} cannot be trained; give it another pooling first"
            )
        self._weights = encoder_weights(checkpoint)
        self._device = device or torch.device("cpu")
        self._names = LAYER_NAMES[checkpoint.model_type]
        source = Source(checkpoint.tensors)
        self._prefix, self._has_projection = source.prefix, "embeddings_project.weight" in source
        self._has_types = "embeddings.token_type_embeddings.weight" in source
        self._pooling, self._normalize = checkpoint.pooling, checkpoint.normalize
        self._dense = [
            (self._tensor(d.weight.T), None if d.bias is None else self._tensor(d.bias), d.activation)
            for d in checkpoint.dense
        ]
        self.tensors = {name: self._tensor(array) for name, array in checkpoint.tensors.items()}
        self._rounding: FakeRounding | None = None
        self._kept: dict[str, FloatArray] = {}  # what ``arrays`` gives in the place of tensors, by name
        self.extra: tuple[Tensor, Tensor] | None = None  # a Dense to the teacher's width: weight [out, in], bias
        pooled = self._weights.hidden_count * len(pooling_parts(checkpoint.pooling))
        self.dimension_count = len(checkpoint.dense[-1].weight.T) if checkpoint.dense else pooled
        self.layer_count = len(self._weights.layers)
        self.hidden_count = self._weights.hidden_count
        self.max_token_count = self._weights.max_token_count
        self.vocabulary = checkpoint.tokenizer.get_vocab(with_added_tokens=True)

    def trainable(self, freeze: str) -> dict[str, Tensor]:
        """The tensors that training changes, by name; gradients are switched on for them and off for all others."""
        frozen = {
            "none": (),
            "words": (f"{self._prefix}embeddings.word_embeddings.",),
            "embeddings": (f"{self._prefix}embeddings.",),
        }[freeze]
        used = (f"{self._prefix}embeddings", f"{self._prefix}encoder.", f"{self._prefix}{self._names.stack}.")
        found = {n: t for n, t in self.tensors.items() if n.startswith(used) and not n.startswith(frozen or "\0")}
        for tensor in self.tensors.values():
            tensor.requires_grad_(False)
        if self.extra is not None:
            found |= {"projection.weight": self.extra[0], "projection.bias": self.extra[1]}
        for tensor in found.values():
            tensor.requires_grad_(True)
        return found

    def add_projection(self, weight: FloatArray) -> None:
        """Ends the head in a Dense without activation, ``weight`` [in, out], before the normalisation."""
        self.extra = self._tensor(weight.T), self._tensor(np.zeros(weight.shape[1], np.float32))
        self.dimension_count = weight.shape[1]

    def read_words_as(self, words: FloatArray) -> None:
        """From here on the student reads these word embeddings [vocabulary, embedding]; ``arrays`` gives its own still."""
        name = f"{self._prefix}embeddings.word_embeddings.weight"
        self._kept[name] = self.tensors[name].cpu().numpy()
        self.tensors[name] = self._tensor(words)

    def round_as(self, rounding: Rounding, start: EncoderWeights) -> None:
        """From here on the student computes what an int8 package does, beginning with the package of ``start``."""
        self._rounding = FakeRounding(rounding, self._device)
        self._weights = replace(self._weights, activation=start.activation)
        for name in rounding.layers:
            number, part = place(name)
            linear: Linear = getattr(start.layers[number], part)
            names = self._places(number)[part]
            for tensor, weight, bias in zip(
                names, np.split(linear.weight.T, len(names)), np.split(linear.bias, len(names)), strict=True
            ):
                self.tensors[f"{self._prefix}{tensor}.weight"] = self._tensor(weight)
                self.tensors[f"{self._prefix}{tensor}.bias"] = self._tensor(bias)

    def arrays(self) -> dict[str, FloatArray]:
        """The encoder's weights as numpy arrays, for a checkpoint; as they are rounded, where they are."""
        found = {name: tensor.detach().cpu().numpy() for name, tensor in self.tensors.items()} | self._kept
        return found if self._rounding is None else found | self._rounded(self._rounding)

    def _rounded(self, rounding: FakeRounding) -> dict[str, FloatArray]:
        found: dict[str, FloatArray] = {}
        for i in range(self.layer_count):
            for part, names in self._places(i).items():
                weight = torch.cat([self._get(f"{name}.weight").detach() for name in names])
                arrays = np.split(rounding.weight(f"layers.{i}.{part}", weight).cpu().numpy(), len(names))
                found |= {f"{self._prefix}{name}.weight": array for name, array in zip(names, arrays, strict=True)}
        return found

    def projection_arrays(self) -> tuple[FloatArray, FloatArray] | None:
        """Weight [in, out] and bias [out] of the added Dense, if there is one."""
        if self.extra is None:
            return None
        weight, bias = (tensor.detach().cpu().numpy() for tensor in self.extra)
        return weight.T, bias

    def encode(self, sequences: Sequence[TokenIds]) -> Encoded:
        """Vectors and hidden states of a batch; sequences are int64 [token count]."""
        lengths = np.array([len(ids) for ids in sequences])
        filled = np.arange(lengths.max()) < lengths[:, None]
        ids = np.zeros(filled.shape, np.int64)
        ids[filled] = np.concatenate(sequences)
        mask = torch.from_numpy(filled.astype(np.float32)).to(self._device)
        x = self._embed(torch.from_numpy(ids).to(self._device))
        bias = self._attention_bias(mask, padded=not filled.all())
        hidden = []
        for i in range(self.layer_count):
            x = self._layer(x, i, bias)
            hidden.append(x)
        return Encoded(self._head(hidden, mask), hidden, mask)

    def vectors_after(self, encoded: Encoded, layer_count: int) -> Tensor:
        """The vectors [B, d] of a batch if the model ended after ``layer_count`` of its layers, with the same head."""
        return self._head(encoded.hidden[:layer_count], encoded.mask)

    def _tensor(self, array: FloatArray) -> Tensor:
        return torch.tensor(np.ascontiguousarray(array, np.float32), device=self._device)

    def _get(self, name: str) -> Tensor:
        return self.tensors[self._prefix + name]

    def _places(self, i: int) -> dict[str, Sequence[str]]:
        """Names below which the linear layers of encoder layer ``i`` lie, by their part of it."""
        names, at = self._names, f"{self._names.stack}.{i}"
        qkv = [f"{at}.{part}" for part in (names.query, names.key, names.value)]
        return {"qkv": qkv, "out": [f"{at}.{names.out}"], "up": [f"{at}.{names.up}"], "down": [f"{at}.{names.down}"]}

    def _linear(self, x: Tensor, i: int, part: str) -> Tensor:
        """One linear layer of encoder layer ``i``; query, key and value side by side in one product."""
        names = self._places(i)[part]
        weights, biases = ([self._get(f"{name}.{kind}") for name in names] for kind in ("weight", "bias"))
        weight, bias = (tensors[0] if len(tensors) == 1 else torch.cat(tensors) for tensors in (weights, biases))
        if self._rounding is None:
            return functional.linear(x, weight, bias)
        return self._rounding.linear(f"layers.{i}.{part}", x, weight, bias)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        gain, bias = self._get(f"{name}.weight"), self._get(f"{name}.bias")
        return functional.layer_norm(x, gain.shape, gain, bias, self._weights.epsilon)

    def _embed(self, ids: Tensor) -> Tensor:
        offset = self._weights.position_offset
        words = functional.embedding(ids, self._get("embeddings.word_embeddings.weight"))
        places = self._get("embeddings.position_embeddings.weight")[offset : offset + ids.shape[1]]
        if self._has_types:
            places = places + self._get("embeddings.token_type_embeddings.weight")[0]
        if self._rounding is not None:
            words, places = round_rows(words), round_rows(places)
        x = self._norm(words + places, "embeddings.LayerNorm")
        if not self._has_projection:
            return x
        return functional.linear(x, self._get("embeddings_project.weight"), self._get("embeddings_project.bias"))

    def _attention_bias(self, mask: Tensor, *, padded: bool) -> Tensor | None:
        """What is added to the scores [B, heads, S, S]: nothing where no text is padded, which is the usual case."""
        bias = ((mask - 1) * 1e9)[:, None, None, :] if padded else None
        if self._weights.relative_bias is None:
            return bias
        table = self._get("encoder.relative_attention_bias.weight")
        place = np.arange(mask.shape[1])
        buckets = relative_buckets(place[None, :] - place[:, None], len(table))
        relative = table[torch.from_numpy(buckets).to(self._device)].permute(2, 0, 1)[None]
        return relative if bias is None else relative + bias

    def _layer(self, x: Tensor, i: int, bias: Tensor | None) -> Tensor:
        names, at = self._names, f"{self._names.stack}.{i}"
        count, width = self._weights.heads_of(self._weights.layers[i]), self._weights.head_width
        batch, length = x.shape[:2]
        qkv = self._linear(x, i, "qkv")
        query, key, value = qkv.view(batch, length, 3, count, width).permute(2, 0, 3, 1, 4)
        context = _attend(query, key, value, bias).transpose(1, 2).reshape(batch, length, count * width)
        x = self._norm(x + self._linear(context, i, "out"), f"{at}.{names.attention_norm}")
        inner = self._linear(x, i, "up")
        if self._rounding is not None:
            inner = self._rounding.with_copies(i, inner)
        inner = _activate(inner, self._weights.activation)
        return self._norm(x + self._linear(inner, i, "down"), f"{at}.{names.output_norm}")

    def _head(self, hidden: Sequence[Tensor], mask: Tensor) -> Tensor:
        with torch.autocast(self._device.type, enabled=False):
            vectors = _pool(hidden[0].float(), hidden[-1].float(), mask, self._pooling)
            for weight, bias, activation in self._dense:
                vectors = _activate(functional.linear(vectors, weight, bias), activation)
            if self.extra is not None:
                vectors = functional.linear(vectors, *self.extra)
            return functional.normalize(vectors, dim=1) if self._normalize else vectors


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of each head [B, heads, S, width]; ``bias`` is added to the scores."""
    if query.is_cuda:
        mask = None if bias is None else bias.to(query.dtype)
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    attention = torch.softmax(scores if bias is None else scores + bias, dim=-1)
    return attention.to(value.dtype) @ value


def _pool(first: Tensor, x: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector a text [B, h * parts] from what leaves the first and the last layer [B, S, h], as the compiled graph does it."""
    return torch.cat([_pool_once(first, x, mask, part) for part in pooling_parts(pooling)], dim=1)


def _pool_once(first: Tensor, x: Tensor, mask: Tensor, pooling: str) -> Tensor:
    if pooling in ("cls", "pooler"):
        return x[:, 0]
    if pooling == "max":
        return x.masked_fill(mask[:, :, None] == 0, -math.inf).amax(dim=1)
    if pooling == "first_last":
        x = (first + x) / 2
    weights = mask * mask.cumsum(dim=1) if pooling == "weighted_mean" else mask
    share = weights.sum(dim=1, keepdim=True)
    return (x * weights[:, :, None]).sum(dim=1) / (share.sqrt() if pooling == "mean_sqrt_len" else share)


def _activate(x: Tensor, kind: str) -> Tensor:
    match kind:
        case "gelu":
            return functional.gelu(x)
        case "gelu_tanh":
            return functional.gelu(x, approximate="tanh")
        case "relu":
            return functional.relu(x)
        case "tanh":
            return torch.tanh(x)
        case _:
            return x
