"""How the states of a text's tokens become its vector: the names that checkpoints, commands and manifests use."""

from __future__ import annotations

import re

POOLINGS = ("mean", "cls", "max", "mean_sqrt_len", "weighted_mean", "pooler", "first_last", "ditto-LAYER-HEAD")
"""All of them; of the last, LAYER and HEAD are numbers from 1: ``ditto-1-10`` is the one of the paper for BERT-base."""

JOINABLE = POOLINGS[:5]
"""Those of which several may be joined end to end, in the order of their names: ``cls+mean``, ``max+mean+weighted_mean``."""

POOLING_RULE = f"{', '.join(POOLINGS)}, or several of the first {len(JOINABLE)} joined by +"

_DITTO = re.compile(r"ditto-([1-9]\d{0,3})-([1-9]\d{0,3})")


def is_pooling(name: object) -> bool:
    """Whether whit knows a pooling of this name."""
    if not isinstance(name, str):
        return False
    parts = pooling_parts(name)
    return (
        name in POOLINGS[:-1]
        or _DITTO.fullmatch(name) is not None
        or (len(parts) > 1 and all(part in JOINABLE for part in parts))
    )


def pooling_parts(name: str) -> list[str]:
    """The poolings whose vectors are joined end to end; most names are of one alone."""
    return name.split("+")


def ditto_head(name: str) -> tuple[int, int] | None:
    """Layer and head of a Ditto pooling, from 0; None for any other."""
    match = _DITTO.fullmatch(name)
    return (int(match[1]) - 1, int(match[2]) - 1) if match else None
