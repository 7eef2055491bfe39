"""Spans and joins of unlabelled text."""

from __future__ import annotations

from whit.export.distill.augment import augment

SHORT = [f"a short sentence about subject number {i}" for i in range(60)]
LONG = " ".join(f"word{i}" for i in range(120))


def test_every_text_is_kept_and_a_passage_comes_twice() -> None:
    found = augment([*SHORT, LONG], 0)
    assert found[:61] == [*SHORT, LONG]
    assert found.count(LONG) == 2


def test_spans_are_of_the_length_of_a_query_a_sentence_and_a_passage() -> None:
    spans = [text.split() for text in augment([*SHORT, LONG], 0)[61:] if text in LONG and text != LONG]
    shortest, middle, longest = sorted(map(len, spans))
    assert 5 <= shortest <= 25 <= middle <= 60 <= longest <= 120


def test_joins_are_neighbours_in_the_file() -> None:
    joins = augment(SHORT, 0)[60:]
    assert len(joins) == 10
    assert all(text in " ".join(SHORT) for text in joins)
    assert max(len(text.split()) for text in joins) > 50


def test_the_seed_decides() -> None:
    assert augment(SHORT, 1) == augment(SHORT, 1) != augment(SHORT, 2)
