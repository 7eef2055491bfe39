"""Quantisation-aware training: the student computes with the int8 codes that its package will have (arXiv:1712.05877).

Rounding has no slope, so gradients pass it as if it were not there (straight-through estimator, arXiv:1308.3432); what lies
beyond the range of the codes gets none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whit.export.checkpoint import Checkpoint
from whit.export.compile import ExportOptions, choose_plan, int8_weights, own_calibration
from whit.export.families import EncoderWeights, Linear
from whit.export.linear import Plan, Row, Static
from whit.export.rounding import PAIR_LIMIT
from whit.export.trained import Rounding, place

_LARGEST = 127


def choose_rounding(
    checkpoint: Checkpoint, progress: Callable[[str, int, int], None]
) -> tuple[Rounding, EncoderWeights]:
    """How ``whit export`` would round a checkpoint, and the encoder with the weights that it would compute with.

    Texts are read as far as the tokenizer of ``checkpoint`` is set to cut them.
    """
    basis = own_calibration(checkpoint, progress)
    plan, _, splits = choose_plan(basis, ExportOptions())
    return Rounding.of(plan, splits, basis.weights), _rounded(int8_weights(basis.weights), plan)


def _rounded(weights: EncoderWeights, plan: Plan) -> EncoderWeights:
    """``weights`` with each linear layer at its codes in ``plan``, whose layers may have more neurons: they come last."""
    layers = list(weights.layers)
    for name, scheme in plan.schemes.items():
        if not isinstance(scheme, Static | Row):
            continue
        number, part = place(name)
        weight = scheme.codes * scheme.weight_scales
        if isinstance(scheme, Static) and scheme.smoothing is not None:
            weight = weight * scheme.smoothing[:, None]
        rows, columns = getattr(weights.layers[number], part).weight.shape
        changed: dict[str, Any] = {part: Linear(weight[:rows, :columns], scheme.bias[:columns])}
        layers[number] = replace(layers[number], **changed)
    return replace(weights, layers=layers)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's rounding as tensors."""

    weight_scales: Tensor  # [out]
    scale: float  # of activations; 0: one a token
    zero_point: int
    smoothing: Tensor | None  # [in]


@dataclass(frozen=True, slots=True)
class _Copies:
    """The copies of a layer's split neurons."""

    source: Tensor  # int64 [copies], the neuron that each is a copy of
    shift: Tensor  # [copies], what is taken from its value before the activation
    ceiling: float


class FakeRounding:
    """A ``Rounding`` for torch: linear layers compute with codes, which bfloat16 holds exactly."""

    def __init__(self, rounding: Rounding, device: torch.device) -> None:
        self._layers = {
            name: _Layer(
                torch.from_numpy(layer.weight_scales).to(device),
                layer.scale,
                layer.zero_point,
                None if layer.smoothing is None else torch.from_numpy(layer.smoothing).to(device),
            )
            for name, layer in rounding.layers.items()
        }
        self._copies = {}
        for number, split in rounding.splits.items():
            places = [(neuron, k) for neuron, count in split.copies.items() for k in range(1, count + 1)]
            source, ordinal = torch.tensor(places, device=device).unbind(1)
            self._copies[number] = _Copies(source, ordinal * split.ceiling, split.ceiling)

    def with_copies(self, number: int, values: Tensor) -> Tensor:
        """What enters the activation of layer ``number`` [..., inner], the copies of split neurons after all others."""
        copies = self._copies.get(number)
        if copies is None:
            return values
        return torch.cat([values, values[..., copies.source] - copies.shift], dim=-1)

    def linear(self, name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """One linear layer of ``x`` [..., in], or with copies after ``in``; ``weight`` [out, in], ``bias`` [out]."""
        number, part = place(name)
        copies = self._copies.get(number) if part == "down" else None
        x = x.float() if copies is None else x.float().clamp(max=copies.ceiling)
        layer = self._layers.get(name)
        codes, scales = (x, torch.ones((), device=x.device)) if layer is None else _activation_codes(layer, copies, x)
        if copies is not None:  # copies add up: each has the weights of its neuron
            count = weight.shape[1]
            codes = codes[..., :count].index_add(-1, copies.source, codes[..., count:])
        if layer is None:
            return functional.linear(codes, weight, bias)
        return functional.linear(codes, self._codes(layer, weight)) * (scales * layer.weight_scales) + bias

    def weight(self, name: str, weight: Tensor) -> Tensor:
        """The weight [out, in] that the codes stand for."""
        layer = self._layers.get(name)
        if layer is None:
            return weight
        found = self._codes(layer, weight) * layer.weight_scales[:, None]
        return found if layer.smoothing is None else found * layer.smoothing

    def _codes(self, layer: _Layer, weight: Tensor) -> Tensor:
        if layer.smoothing is not None:
            weight = weight / layer.smoothing
        exact = (weight / layer.weight_scales[:, None]).clamp(-_LARGEST, _LARGEST)
        return exact + (_limit_pairs(exact.detach().round()) - exact).detach()


def _activation_codes(layer: _Layer, copies: _Copies | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [..., in] less their zero point, and the scale that they are to be multiplied by."""
    if not layer.scale:
        scale = x.detach().abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / _LARGEST
        return _round(x / scale), scale
    if layer.smoothing is not None:
        smoothing = layer.smoothing
        x = x * (smoothing if copies is None else torch.cat([smoothing, smoothing[copies.source]]))
    codes = (x / layer.scale).clamp(-layer.zero_point, 255 - layer.zero_point)
    return _round(codes), torch.full((), layer.scale, device=x.device)


def round_rows(x: Tensor) -> Tensor:
    """Rows of an embedding table [..., width] at eight bits, with a scale each."""
    scale = x.detach().abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / _LARGEST
    return _round(x / scale) * scale


def _round(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def _limit_pairs(codes: Tensor) -> Tensor:
    """``whit.export.rounding.limit_pairs`` for [out, in]."""
    if codes.shape[1] % 2:
        return _limit_pairs(functional.pad(codes, (0, 1)))[:, :-1]
    pairs = codes.reshape(len(codes), -1, 2)
    sums = pairs.sum(dim=2)
    excess = (sums.abs() - PAIR_LIMIT).clamp(min=0)  # of one sign, where there is any
    first = (excess / 2).ceil()
    taken = torch.stack([first, excess - first], dim=2) * sums.sign()[:, :, None]
    return (pairs - taken).flatten(1)
