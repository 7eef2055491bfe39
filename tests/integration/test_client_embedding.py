"""Both clients against a real server with low limits: models, and embedding in one call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.clients import ITEM_LIMIT, KINDS, MESSAGE_BYTES, MODEL, TEXTS, limited_server, open_client
from tests.support.server import DIMENSION_COUNT, MAX_TOKEN_COUNT, server_thread, tiny_package
from whit.client import Client, InvalidRequest, ItemErrors, NotFound, Reason, ResourceExhausted


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with limited_server(tmp_path_factory.mktemp("server") / "data") as found:
        yield found


@pytest.fixture(params=KINDS)
def whit(request: pytest.FixtureRequest, address: str) -> Iterator[Client]:
    with open_client(request.param, address) as client:
        yield client


def test_info_has_the_limits_of_the_server(whit: Client) -> None:
    info = whit.info()

    assert info.limits.batch_item_count == ITEM_LIMIT
    assert info.limits.message_byte_count == MESSAGE_BYTES
    assert [model.name for model in info.models] == ["other", MODEL]
    assert info.worker_count == 2
    assert info.uptime_s > 0


def test_models(whit: Client) -> None:
    listed = whit.models()
    one = whit.model(MODEL)

    assert one in listed
    assert (one.dimension_count, one.max_token_count, one.dtype) == (DIMENSION_COUNT, MAX_TOKEN_COUNT, "float32")
    assert one.prompts == {"query": "find: ", "document": "text: "}
    assert one.verified
    verification = whit.verify_model(MODEL)
    assert verification.verified
    assert verification.max_abs_difference <= verification.tolerance
    with pytest.raises(NotFound, match="'nix' is not loaded") as caught:
        whit.model("nix")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


@pytest.mark.parametrize("kind", KINDS)
def test_the_face(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The block that every newcomer sees first, as it stands there, but for the address."""
    texts = ["some", "texts"]
    package = tiny_package("all-MiniLM-L6-v2")
    with server_thread(tmp_path / "data", models=[package]) as address, open_client(kind, address) as whit:
        print(whit.models())  # noqa: T201
        found = whit.embed(["a text", "another"], model="all-MiniLM-L6-v2", encoding="float32")
        assert found.vectors.dtype == np.float32
        assert found.vectors.shape == (2, DIMENSION_COUNT)
        assert (found.items[0].token_count, found.items[0].truncated) == (4, False)
        for batch in whit.embed_stream(texts, model="all-MiniLM-L6-v2", encoding="int8"):
            assert batch.vectors.dtype == np.int8
        whit.create_collection("notes", model="all-MiniLM-L6-v2", storage="int8")
        whit.upsert("notes", ids=["1", "2"], texts=["…", "how to undo"], metadata=[{"lang": "en"}, {}])
        for hit in whit.search("notes", "how do I undo this?", limit=5):
            print(hit.score, hit.id, hit.text, hit.metadata)  # noqa: T201

    out = capsys.readouterr().out
    assert "name='all-MiniLM-L6-v2'" in out
    assert "1 … {'lang': 'en'}" in out


def test_a_call_that_is_split_gives_what_its_texts_give_alone(whit: Client) -> None:
    whole = whit.embed(TEXTS, model=MODEL, encoding=["int8", "float32"])

    assert whole.vectors.shape == (50, DIMENSION_COUNT)
    assert whole.vectors.dtype == np.int8
    for row in (0, 15, 16, 49):
        alone = whit.embed([TEXTS[row]], model=MODEL, encoding=["int8", "float32"])
        assert alone.vectors.tobytes() == whole.vectors[row].tobytes()
        assert whole.scales is not None
        assert alone.scales is not None
        assert alone.scales[0] == whole.scales[row]
        assert alone.items[0] == whole.items[row]
    assert whole.fingerprint == whit.model(MODEL).fingerprint
    assert whole.timing.infer_time_us > 0


def test_every_option_has_an_effect(whit: Client) -> None:
    text = ["where is the water"]
    plain = whit.embed(text, model=MODEL)
    query = whit.embed(text, model=MODEL, role="query")
    instructed = whit.embed(text, model=MODEL, instruction="find: ")
    short = whit.embed(text, model=MODEL, dimension_count=8)

    assert not np.array_equal(plain.vectors, query.vectors)
    assert np.array_equal(query.vectors, instructed.vectors)
    assert query.items[0].token_count > plain.items[0].token_count
    assert short.vectors.shape == (1, 8)
    assert np.linalg.norm(short.vectors) == pytest.approx(1, abs=1e-5)
    cosine = short.vectors @ plain.vectors[:, :8].T / np.linalg.norm(plain.vectors[:, :8])
    assert cosine == pytest.approx(1, abs=1e-5)


def test_texts_that_are_too_long_for_the_model(whit: Client) -> None:
    texts = ["a text", "water " * 100]

    cut = whit.embed(texts, model=MODEL, on_overflow="truncate")

    assert [item.truncated for item in cut.items] == [False, True]
    assert cut.items[1].used_token_count == MAX_TOKEN_COUNT < cut.items[1].token_count
    with pytest.raises(ItemErrors, match=r"1 of 2 items failed; the first is number 1: texts\[1\]: has \d+ tokens"):
        whit.embed(texts, model=MODEL)


def test_token_ids_are_the_same_as_their_text(whit: Client) -> None:
    from tests.support.tiny import tokenizer

    ids = [tokenizer().encode(text).ids for text in TEXTS]

    assert np.array_equal(whit.embed(token_ids=ids, model=MODEL).vectors, whit.embed(TEXTS, model=MODEL).vectors)


def test_bad_items_do_not_hinder_the_others(whit: Client) -> None:
    """Refused by the server (empty, over its limit), by the client (no message holds it, no Unicode): all by item."""
    texts = [*TEXTS[:20], "", "x" * 60_000, "x" * 200_000, "\ud800", *TEXTS[20:]]
    reasons = {20: Reason.EMPTY_TEXT, 21: Reason.TEXT_TOO_LONG, 22: Reason.TEXT_TOO_LONG, 23: Reason.INVALID_REQUEST}

    with pytest.raises(ItemErrors) as caught:
        whit.embed(texts, model=MODEL)

    assert {index: error.reason for index, error in caught.value.errors.items()} == reasons
    for index, error in caught.value.errors.items():
        assert isinstance(error, InvalidRequest)
        assert str(error).startswith(f"texts[{index}]: ")
    good = [row for row in range(len(texts)) if row not in reasons]
    result = whit.embed(texts, model=MODEL, on_error="return")
    assert np.array_equal(result.vectors, caught.value.result.vectors)
    assert np.array_equal(result.vectors[good], whit.embed(TEXTS, model=MODEL).vectors)
    assert not result.vectors[list(reasons)].any()


def test_a_call_of_which_nothing_can_be_sent(whit: Client) -> None:
    result = whit.embed(["\ud800"], model=MODEL, on_error="return", encoding="binary")

    assert result.vectors.shape == (1, DIMENSION_COUNT // 8)
    assert result.items[0].error is not None


def test_a_message_that_the_server_does_not_take(whit: Client) -> None:
    """gRPC refuses it before whit's own code sees it; the error says all the same how large it was, and what to do."""
    long = "long" * 30_000
    with pytest.raises(ResourceExhausted, match=rf"the request has 1\d+ bytes, .* holds {MESSAGE_BYTES}") as refused:
        whit.model(long)
    assert refused.value.reason is Reason.INVALID_REQUEST
    assert "(message_byte_count); send fewer items at a time, or shorter ones" in str(refused.value)
    for call in (
        lambda: whit.embed(["a"], model=MODEL, instruction=long),
        lambda: list(whit.embed_stream(["a"], model=MODEL, instruction=long)),
    ):
        with pytest.raises(InvalidRequest, match=r"the options have 1200.. bytes, .* give a shorter role or instr"):
            call()
    assert len(whit.embed(["a"], model=MODEL)) == 1


def test_no_texts_are_refused(whit: Client) -> None:
    with pytest.raises(InvalidRequest, match="texts: is empty; give 1 to 16"):
        whit.embed([], model=MODEL)


def test_an_unknown_model_or_role_is_refused(whit: Client) -> None:
    with pytest.raises(NotFound, match="loaded: other, tiny"):
        whit.embed(["a"], model="nix")
    with pytest.raises(InvalidRequest, match=r"must be (one of .*|left out), for the package of model 'tiny' has"):
        whit.embed(["a"], model=MODEL, role="poem")
    with pytest.raises(InvalidRequest, match="must be 1 to 32"):
        whit.embed(["a"], model=MODEL, dimension_count=33)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_came_up_again_with_lower_limits_refuses_nothing(kind: str, tmp_path: Path) -> None:
    """The first call after it was split by the limits that had been, and refused with advice to split it."""
    ids, listen = [str(number) for number in range(len(TEXTS))], f"unix:{tmp_path / 'socket'}"
    with open_client(kind, listen) as whit:
        with server_thread(tmp_path / "data", listen=listen):
            expected = whit.embed(TEXTS, model=MODEL).vectors
            whit.create_collection("c", model=MODEL)
            whit.upsert("c", ids=ids, texts=TEXTS)
        for more, work in enumerate(
            [
                lambda: np.array_equal(whit.embed(iter(TEXTS), model=MODEL).vectors, expected),
                lambda: len(list(whit.embed_stream(TEXTS, model=MODEL, batch_size=50))) > 1,
                lambda: len(whit.upsert("c", ids=ids, texts=TEXTS).items) == len(TEXTS),
                lambda: [point.id for point in whit.get("c", ids)] == ids,
                lambda: len(whit.search_batch("c", iter(TEXTS))) == len(TEXTS),
                lambda: whit.delete("c", ids).deleted_count == len(TEXTS),
            ]
        ):
            with server_thread(tmp_path / "data", listen=listen, batch_item_count=40 - more):
                assert work()


@pytest.mark.parametrize("name", ["", "a b", "models/tiny"])
def test_a_name_that_no_model_can_have_is_refused_as_the_argument_it_was(whit: Client, name: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^model: must be 1 to 128 of .*; got '{name}'$"):
        whit.embed(["a text"], model=name)
    with pytest.raises(InvalidRequest, match=rf"^model: must be 1 to 128 of .*; got '{name}'$"):
        next(whit.embed_stream(["a text"], model=name))
    with pytest.raises(InvalidRequest, match=rf"^name: must be 1 to 128 of .*; got '{name}'$"):
        whit.model(name)
    with pytest.raises(InvalidRequest, match=r"^collection: must be 1 to 64 of .*; got 'collections/c'$"):
        whit.count("collections/c")
