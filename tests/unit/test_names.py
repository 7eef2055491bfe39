"""Resource names: what is taken, and a refusal that states the rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.contract.names import (
    COLLECTION_ID_RULE,
    MODEL_ID_RULE,
    collection_name,
    is_model_id,
    model_name,
    parse_collection_name,
    parse_model_name,
)

Parse = Callable[[str], str]


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True))
def test_model_names_come_back(model_id: str) -> None:
    assert parse_model_name(model_name(model_id)) == model_id
    assert is_model_id(model_id)


@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True))
def test_collection_names_come_back(collection_id: str) -> None:
    assert parse_collection_name(collection_name(collection_id)) == collection_id


BAD_IDS = ["", ".", "..", "-a", "_a", ".hidden", "a/b", "a b", "a\n", "ä", "a\0", "../a"]


@pytest.mark.parametrize("bad", [*BAD_IDS, "a" * 129])
def test_bad_model_names_are_refused_with_the_rule(bad: str) -> None:
    with pytest.raises(ValueError, match="must be 'models/NAME' where NAME is") as refusal:
        parse_model_name(model_name(bad))

    assert MODEL_ID_RULE in str(refusal.value)
    assert not is_model_id(bad)


@pytest.mark.parametrize("bad", [*BAD_IDS, "a" * 65, "Notes", "a.b"])
def test_bad_collection_names_are_refused_with_the_rule(bad: str) -> None:
    with pytest.raises(ValueError, match="must be 'collections/NAME' where NAME is") as refusal:
        parse_collection_name(collection_name(bad))

    assert COLLECTION_ID_RULE in str(refusal.value)


@pytest.mark.parametrize("parse", [parse_model_name, parse_collection_name])
@pytest.mark.parametrize("name", ["", "a", "model/a", "collection/a", "MODELS/a", "models", "/a", "models//a"])
def test_names_of_another_form_are_refused(parse: Parse, name: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse(name)


def test_one_kind_is_not_taken_for_the_other() -> None:
    with pytest.raises(ValueError, match="must be 'models/NAME'"):
        parse_model_name("collections/a")
    with pytest.raises(ValueError, match="must be 'collections/NAME'"):
        parse_collection_name("models/a")


def test_a_long_name_is_not_repeated_whole() -> None:
    with pytest.raises(ValueError, match="must be") as refusal:
        parse_model_name("models/" + "é" * 100_000)

    assert len(str(refusal.value)) < 300
