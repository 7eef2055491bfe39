"""How a step of training is computed: the optimizer, and in which precision."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from whit.export.distill.options import DistillOptions


def make_optimizer(parameters: Mapping[str, Tensor], options: DistillOptions) -> torch.optim.Optimizer:
    """AdamW; only matrices of linear layers are drawn towards zero."""
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, tensor in parameters.items():
        groups[tensor.ndim == 2 and "embeddings." not in name].append(tensor)
    return torch.optim.AdamW(
        [
            {"params": tensors, "weight_decay": options.weight_decay if decays else 0.0}
            for decays, tensors in groups.items()
            if tensors
        ],
        lr=options.learning_rate,
        fused=True,
    )


def uses_bfloat16(options: DistillOptions, device: torch.device) -> bool:
    """Whether the matrix products of a step are computed in bfloat16."""
    if options.precision != "auto":
        return options.precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # Without these instructions bfloat16 is emulated, which is slower than float32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
