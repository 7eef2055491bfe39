"""A stress test that no text file holds: every pair of documents is the whole answer to some query.

A vector of d dimensions can only tell so many sets of documents apart. The test asks for all of them, as LIMIT does (O. Weller et
al., "On the Theoretical Limitations of Embedding-Based Retrieval", arXiv:2508.21038): each document is a person and what
they like, and each liking is shared by exactly two. The words are easy; that every pair is wanted is what is hard.
"""

from __future__ import annotations

import random
from itertools import combinations, product
from math import comb

from whit.export.errors import OptionError
from whit.export.evaluate.data import Retrieval

SUBSET_SIZE = 2  # documents that answer a query

_SEED = 20250101
_NAMES = (
    "Ada Alma Amir Anton Beatriz Boris Carla Chen Dalia Diego Edith Emil Farah Felix Greta Hana Hugo Ida Igor Ines Ivan Jana "
    "Jonas Kaya Kenji Lara Leon Lucia Malik Marta Milo Nadia Nils Olga Omar Paula Pavel Quinn Rania Rosa Samir Selma Stefan "
    "Tariq Tessa Tomas Ulla Vera Viktor Wanda Xenia Yara Yusuf Zora"
)
_KINDS = (
    "antique black blue bright cheap clean coloured cold dark dry empty fast foreign fresh giant gold green heavy home-made "
    "hot iron large light little local loud new old painted plain quiet red rough round sharp silver slow small smooth "
    "soft square striped sweet tall tiny warm white wooden yellow"
)
_THINGS = (
    "apples bells bicycles birds boats books boots bottles bowls boxes bread bridges buses butterflies cakes candles chairs "
    "cheese clocks coats coins cups dogs doors drums flags flowers forks gardens gloves guitars hats horses houses kites "
    "knives ladders lamps maps mirrors pencils pianos plates shirts shoes spoons stones tables tents towers trains "
    "trumpets umbrellas windows"
)
MAX_DOCUMENTS = _NAMES.count(" ") + 1


def limit_set(document_count: int) -> Retrieval:
    """Documents, and a query for each pair of them; always the same for the same number.

    Raises:
        OptionError: not 3 to ``MAX_DOCUMENTS`` documents.
    """
    if not 3 <= document_count <= MAX_DOCUMENTS:
        raise OptionError("stress", f"must be 3 to {MAX_DOCUMENTS} documents, got {document_count}")
    chance = random.Random(_SEED)  # noqa: S311 - reproducible, not secret
    things = [f"{kind} {thing}" for kind, thing in product(_KINDS.split(), _THINGS.split())]
    likings = chance.sample(things, comb(document_count, SUBSET_SIZE))
    fans = list(combinations(range(document_count), SUBSET_SIZE))
    liked: list[list[str]] = [[] for _ in range(document_count)]
    for liking, group in zip(likings, fans, strict=True):
        for person in group:
            liked[person].append(liking)
    for own in liked:
        chance.shuffle(own)
    documents = [
        f"{name} likes {', '.join(own[:-1])} and {own[-1]}."
        for name, own in zip(_NAMES.split()[:document_count], liked, strict=True)
    ]
    judgements = {query: dict.fromkeys(group, 1.0) for query, group in enumerate(fans)}
    return Retrieval(documents, [f"Who likes {liking}?" for liking in likings], judgements)
