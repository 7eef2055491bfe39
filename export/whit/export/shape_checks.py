"""Whether what was read from a checkpoint fits together: one that is damaged is refused by name, not by a library's error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from whit.export.checkpoint import Checkpoint, Dense, FloatArray
from whit.export.errors import CheckpointError

if TYPE_CHECKING:
    from whit.export.families import EncoderWeights


def check_tokens(checkpoint: Checkpoint, weights: EncoderWeights) -> None:
    """Refuses a tokenizer that can give a token without an embedding: the first text with it would fail, at run time."""
    token, largest = max(checkpoint.tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda entry: entry[1])
    if largest >= len(weights.words):
        raise CheckpointError(
            f"tokenizer.json has token {token!r} with id {largest}, but the weights have {len(weights.words)} word "
            "embeddings; save the model again after resize_token_embeddings, or copy the tokenizer that belongs to it"
        )


def check_shapes(weights: EncoderWeights) -> None:
    """Refuses tensors that do not fit each other."""
    embedding, hidden = weights.words.shape[1], weights.hidden_count
    if hidden % weights.head_count:
        raise CheckpointError(
            f"config.json: {weights.head_count} attention heads do not divide the hidden size {hidden}"
        )
    if weights.max_token_count < 1:
        raise CheckpointError(f"the weights have {len(weights.positions)} positions, none of them beyond the padding's")
    expected: list[tuple[str, FloatArray, tuple[int, ...]]] = [
        ("embedding LayerNorm", weights.embedding_norm.gain, (embedding,)),
    ]
    if weights.relative_bias is not None:
        expected.append(
            ("relative attention bias", weights.relative_bias, (len(weights.relative_bias), weights.head_count))
        )
    if weights.projection is not None:
        expected.append(("embedding projection", weights.projection.weight, (embedding, hidden)))
    elif embedding != hidden:
        raise CheckpointError(
            f"the weights have embeddings of size {embedding}, a hidden size of {hidden} and no projection"
        )
    for i, layer in enumerate(weights.layers):
        # Pruned layers are narrower, each in its own way.
        attention, inner = weights.heads_of(layer) * weights.head_width, layer.up.weight.shape[1]
        if weights.relative_bias is not None and attention != hidden:
            raise CheckpointError(
                f"layer {i} has {weights.heads_of(layer)} attention heads, but the relative attention bias is shared by "
                f"layers of {weights.head_count}; restore the pruned heads"
            )
        expected += [
            (f"query, key and value of layer {i}", layer.qkv.weight, (hidden, 3 * attention)),
            (f"attention output of layer {i}", layer.out.weight, (attention, hidden)),
            (f"first feed-forward of layer {i}", layer.up.weight, (hidden, inner)),
            (f"second feed-forward of layer {i}", layer.down.weight, (inner, hidden)),
            (f"attention LayerNorm of layer {i}", layer.attention_norm.gain, (hidden,)),
            (f"output LayerNorm of layer {i}", layer.output_norm.gain, (hidden,)),
        ]
    for what, array, shape in expected:
        if array.shape != shape:
            raise CheckpointError(
                f"the {what} has shape {list(array.shape)}, expected {list(shape)}; is this checkpoint complete?"
            )


def check_dense(modules: Sequence[Dense], pooled_count: int) -> None:
    """Refuses Dense modules of which one does not take what the one before it gives, beginning with what is pooled."""
    width = pooled_count
    for number, dense in enumerate(modules, start=1):
        shape = dense.weight.shape
        if len(shape) != 2 or shape[0] != width or (dense.bias is not None and dense.bias.shape != shape[1:]):
            bias = "no bias" if dense.bias is None else f"a bias of {list(dense.bias.shape)}"
            raise CheckpointError(
                f"Dense number {number} has weights of shape {list(reversed(shape))} and {bias}, but {width} values come in; "
                "copy all files of the checkpoint that it belongs to"
            )
        width = shape[1]
