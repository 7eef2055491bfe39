"""The rounding that a checkpoint was trained with, which its int8 package then has: a file beside the weights.

``whit distill --qat`` takes what the compiler would choose for the checkpoint it starts from, keeps it for the whole run, and
leaves it in ``rounding.safetensors``. With it every weight has its nearest code, and codes mean what they meant in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from whit.export.checkpoint import ROUNDING_FILE
from whit.export.embedding import Rows
from whit.export.errors import CheckpointError
from whit.export.families import EncoderWeights, Linear
from whit.export.linear import Plan, Row, Scheme, Static
from whit.export.modules import encoder_folder
from whit.export.outliers import Split
from whit.export.rounding import codes_at

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LayerRounding:
    """How one linear layer is rounded, with the neurons that it has in the checkpoint: none is split."""

    weight_scales: FloatArray  # [out]
    scale: float = 0.0  # of the activations; 0: one a token
    zero_point: int = 0
    smoothing: FloatArray | None = None  # [in]

    def scheme(self, linear: Linear) -> Static | Row:
        """The layer with its weights at their nearest codes."""
        weight = linear.weight if self.smoothing is None else linear.weight / self.smoothing[:, None]
        codes = codes_at(weight, self.weight_scales).astype(np.int8)
        if not self.scale:
            return Row(codes, self.weight_scales, linear.bias)
        return Static(codes, self.weight_scales, linear.bias, self.scale, self.zero_point, self.smoothing)


@dataclass(frozen=True, slots=True)
class Rounding:
    """How a checkpoint's linear layers are rounded, by name; what is not named stays float32."""

    layers: Mapping[str, LayerRounding]
    splits: Mapping[int, Split]

    @classmethod
    def of(cls, plan: Plan, splits: Mapping[int, Split], weights: EncoderWeights) -> Rounding:
        """What the compiler chose for ``weights``, which are not split yet."""
        layers = {}
        for name, scheme in plan.schemes.items():
            linear = _linear(weights, name)
            match scheme:
                case Static():
                    factor = None if scheme.smoothing is None else scheme.smoothing[: len(linear.weight)]
                    scales = scheme.weight_scales[: len(linear.bias)]
                    layers[name] = LayerRounding(scales, scheme.scale, scheme.zero_point, factor)
                case Row():
                    layers[name] = LayerRounding(scheme.weight_scales[: len(linear.bias)])
        return cls(layers, splits)

    def plan(self, weights: EncoderWeights, words: Rows) -> Plan:
        """The compiler's plan for ``weights``, which are not split yet, as they will be split; ``words`` goes in as it is.

        Raises:
            CheckpointError: the file is of a checkpoint with other layers.
        """
        schemes: dict[str, Scheme] = {}
        for name, rounding in self.layers.items():
            try:
                linear = _linear(weights, name)
                scheme = rounding.scheme(linear)
            except (IndexError, AttributeError, ValueError):
                raise CheckpointError(
                    f"{ROUNDING_FILE} does not fit {name} of this checkpoint; remove the file, or train again with --qat"
                ) from None
            number, part = place(name)
            schemes[name] = _spread(scheme, part, self.splits[number]) if number in self.splits else scheme
        return Plan(schemes, words)

    def write(self, folder: Path) -> None:
        """Adds the file to a checkpoint folder."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for name, layer in self.layers.items():
            arrays[f"{name}.weight_scales"] = np.ascontiguousarray(layer.weight_scales)
            arrays[f"{name}.range"] = np.array([layer.scale, layer.zero_point], np.float64)
            if layer.smoothing is not None:
                arrays[f"{name}.smoothing"] = np.ascontiguousarray(layer.smoothing)
        for i, split in self.splits.items():
            arrays[f"layers.{i}.ceiling"] = np.array([split.ceiling], np.float64)
            arrays[f"layers.{i}.copies"] = np.array(list(split.copies.items()), np.int64)
        save_file(arrays, encoder_folder(folder) / ROUNDING_FILE)


def read_rounding(folder: Path) -> Rounding | None:
    """The rounding that a checkpoint was trained with, if it was.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = encoder_folder(folder) / ROUNDING_FILE
    if not path.is_file():
        return None
    try:
        arrays = load_file(path)
        layers, splits = {}, {}
        for entry in arrays:
            name, _, kind = entry.rpartition(".")
            if kind == "weight_scales":
                scale, zero_point = arrays[f"{name}.range"]
                smoothing = arrays.get(f"{name}.smoothing")
                layers[name] = LayerRounding(arrays[entry], float(scale), int(zero_point), smoothing)
            elif kind == "copies":
                copies = {int(neuron): int(count) for neuron, count in arrays[entry]}
                splits[int(name.rpartition(".")[2])] = Split(float(arrays[f"{name}.ceiling"][0]), copies)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); train again with --qat, or remove the file") from None
    order = sorted(layers, key=lambda name: place(name)[0])
    return Rounding({name: layers[name] for name in order}, splits)


def place(name: str) -> tuple[int, str]:
    """Number of the layer, and which of its parts: ``layers.3.up`` is (3, "up")."""
    _, number, part = name.split(".")
    return int(number), part


def _linear(weights: EncoderWeights, name: str) -> Linear:
    number, part = place(name)
    linear: Linear = getattr(weights.layers[number], part)
    return linear


def _spread(scheme: Static | Row, part: str, split: Split) -> Static | Row:
    """The scheme of a part of a layer whose neurons are split: an idle neuron is all zeros."""
    codes = scheme.codes.astype(np.float32)
    if part == "up":
        bias = split.shifted(scheme.bias)
        scales = split.spread(scheme.weight_scales, idle=1)
        return replace(scheme, codes=split.spread(codes).astype(np.int8), weight_scales=scales, bias=bias)
    if part == "down":
        scheme = replace(scheme, codes=split.spread(codes.T).T.astype(np.int8))
        if isinstance(scheme, Static) and scheme.smoothing is not None:
            scheme = replace(scheme, smoothing=split.spread(scheme.smoothing, idle=1))
    return scheme
