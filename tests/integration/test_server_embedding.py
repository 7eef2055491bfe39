"""Embed over a real socket: what it gives, and every way to ask wrongly."""

import grpc
import numpy as np
import pytest

from tests.support.server import DIMENSION_COUNT, MAX_TOKEN_COUNT, server_thread, tiny_package
from tests.support.wire import connected, embed_options, item_problem, matrix, refused
from whit.contract.errors import Reason
from whit.contract.vectors import Encoding
from whit.contract.wire import ENCODING_NUMBERS
from whit.v1 import embedding_pb2, vector_pb2

FLOAT32, FLOAT16, INT8, BINARY = 1, 2, 3, 4


@pytest.fixture(scope="module")
def wire(tmp_path_factory):
    packages = [tiny_package(), tiny_package("plain", prompts=False), tiny_package("raw", normalize=False)]
    with server_thread(tmp_path_factory.mktemp("data"), models=packages) as address, connected(address) as found:
        yield found


def test_a_batch_is_embedded(wire):
    found = wire.embed("one text", "text and text and text")
    assert [item.token_count for item in found.items] == [4, 7]
    assert [item.used_token_count for item in found.items] == [4, 7]
    assert not any(item.HasField("status") or item.truncated for item in found.items)
    vectors = matrix(found.vectors[0])
    assert vectors.shape == (2, DIMENSION_COUNT)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert found.model_fingerprint.startswith("sha256:")
    assert found.timing.infer_time_us > 0


def test_several_encodings_come_in_the_order_asked_for(wire):
    found = wire.embed("a text", encodings=[BINARY, FLOAT32, INT8, FLOAT16])
    assert [batch.encoding for batch in found.vectors] == [BINARY, FLOAT32, INT8, FLOAT16]
    exact = matrix(found.vectors[1])
    np.testing.assert_array_equal(matrix(found.vectors[0]), np.where(exact > 0, 1, -1))
    np.testing.assert_allclose(matrix(found.vectors[2]), exact, atol=np.abs(exact).max() / 127)
    np.testing.assert_allclose(matrix(found.vectors[3]), exact, atol=1e-3)


def test_fewer_dimensions_are_the_first_ones_renormalised(wire):
    full = matrix(wire.embed("a text").vectors[0])
    cut = matrix(wire.embed("a text", dimension_count=8).vectors[0])
    expected = full[:, :8] / np.linalg.norm(full[:, :8])
    np.testing.assert_allclose(cut, expected, atol=1e-6)


def test_a_role_puts_its_prompt_before_the_text(wire):
    by_role = wire.embed("a text", role="query")
    by_instruction = wire.embed("a text", instruction="find: ")
    by_hand = wire.embed("find: a text")
    assert by_role.vectors == by_instruction.vectors == by_hand.vectors != wire.embed("a text").vectors


def test_token_ids_give_what_their_text_gives(wire):
    ids = [2, 44, 45, 3]
    request = embedding_pb2.EmbedRequest(options=embed_options(), token_ids=[embedding_pb2.TokenIds(ids=ids)])
    found = wire.embedding.Embed(request)
    assert found.items[0].token_count == 4
    np.testing.assert_allclose(np.linalg.norm(matrix(found.vectors[0])), 1, atol=1e-6)


def test_unnormalised_vectors_of_a_model_that_has_them(wire):
    raw = matrix(wire.embed("a text", model="models/raw", normalize=False).vectors[0])
    unit = matrix(wire.embed("a text", model="models/raw").vectors[0])
    assert abs(np.linalg.norm(raw) - 1) > 0.01
    np.testing.assert_allclose(raw / np.linalg.norm(raw), unit, atol=1e-6)


def test_too_many_tokens_are_refused_or_cut_and_said_to_be(wire):
    text = "word " * 100
    refused_item = wire.embed(text, "short").items
    assert item_problem(refused_item[0]).reason is Reason.TEXT_TOO_LONG
    assert (refused_item[0].token_count, refused_item[0].used_token_count) == (102, 0)
    assert not refused_item[1].HasField("status")
    cut = wire.embed(text, on_overflow=embedding_pb2.OVERFLOW_POLICY_TRUNCATE).items[0]
    assert (cut.token_count, cut.used_token_count, cut.truncated) == (102, MAX_TOKEN_COUNT, True)


# Bad input.


def test_an_empty_batch_is_refused(wire):
    problem = refused(wire.embed)
    assert problem.reason is Reason.INVALID_REQUEST
    assert problem.violations[0].field == "texts"
    assert "1 to 1024" in problem.message


def test_an_empty_text_fails_alone_and_its_row_is_zeros(wire):
    found = wire.embed("before", "", "after")
    problem = item_problem(found.items[1])
    assert problem.reason is Reason.EMPTY_TEXT
    assert problem.violations[0].field == "texts[1]"
    vectors = matrix(found.vectors[0])
    assert not vectors[1].any()
    np.testing.assert_array_equal(vectors[[0, 2]], matrix(wire.embed("before", "after").vectors[0]))


def test_a_text_of_10_mb_fails_alone(wire):
    found = wire.embed("x" * 10_000_000, "short")
    problem = item_problem(found.items[0])
    assert problem.reason is Reason.TEXT_TOO_LONG
    assert "1048576 bytes" in problem.message
    assert not found.items[1].HasField("status")


def test_bytes_that_are_not_utf8_are_refused(wire):
    # Field 2 (texts) with two bytes that are no UTF-8.
    request = embedding_pb2.EmbedRequest(options=embed_options()).SerializeToString() + b"\x12\x02\xff\xfe"
    call = wire.channel.unary_unary("/whit.v1.EmbeddingService/Embed")
    problem = refused(lambda: call(request))
    assert problem.reason is Reason.MALFORMED_MESSAGE
    assert problem.status_code is grpc.StatusCode.INVALID_ARGUMENT
    assert "UTF-8" in problem.message


def test_bytes_that_are_no_message_are_refused(wire):
    call = wire.channel.unary_unary("/whit.v1.EmbeddingService/Embed")
    assert refused(lambda: call(b"\xff\xff\xff")).reason is Reason.MALFORMED_MESSAGE


def test_nul_bytes_are_text_like_any_other(wire):
    found = wire.embed("with\0nul", "\0")
    assert not found.items[0].HasField("status")
    # A lone NUL gives this tokenizer's special tokens only; that is the tokenizer's affair, and the vector is finite.
    assert np.isfinite(matrix(found.vectors[0])).all()


@pytest.mark.parametrize("model", ["", "tiny", "models/", "models/no such", "collections/tiny"])
def test_a_malformed_model_name_is_refused(wire, model):
    problem = refused(lambda: wire.embed("a", model=model))
    assert problem.reason is Reason.INVALID_REQUEST
    assert problem.violations[0].field == "options.model"
    assert "models/NAME" in problem.message


def test_an_unknown_model_is_not_found_and_the_loaded_ones_are_named(wire):
    problem = refused(lambda: wire.embed("a", model="models/other"))
    assert problem.reason is Reason.MODEL_NOT_FOUND
    assert problem.status_code is grpc.StatusCode.NOT_FOUND
    assert "plain, raw, tiny" in problem.message


def test_an_unknown_role_is_refused_and_the_known_ones_are_named(wire):
    problem = refused(lambda: wire.embed("a", role="poet"))
    assert problem.violations[0].field == "options.role"
    assert "document, query" in problem.message
    problem = refused(lambda: wire.embed("a", model="models/plain", role="query"))
    assert "has no prompts" in problem.message


@pytest.mark.parametrize("dimension_count", [-1, DIMENSION_COUNT + 1, 2**31 - 1])
def test_a_dimension_count_out_of_range_is_refused(wire, dimension_count):
    problem = refused(lambda: wire.embed("a", dimension_count=dimension_count))
    assert problem.violations[0].field == "options.dimension_count"
    assert f"1 to {DIMENSION_COUNT}" in problem.message


def test_unknown_enum_numbers_are_refused_with_their_paths_all_at_once(wire):
    problem = refused(lambda: wire.embed("a", encodings=[FLOAT32, 99], on_overflow=7))
    assert {v.field for v in problem.violations} == {"options.encodings[1]", "options.on_overflow"}
    assert "99" in str(problem.violations)


def test_an_encoding_twice_is_refused(wire):
    problem = refused(lambda: wire.embed("a", encodings=[INT8, FLOAT32, INT8]))
    assert problem.violations[0].field == "options.encodings[2]"
    # UNSPECIFIED means FLOAT32.
    assert refused(lambda: wire.embed("a", encodings=[0, FLOAT32])).violations[0].field == "options.encodings[1]"
    assert wire.embed("a", encodings=[0]).vectors[0].encoding == vector_pb2.VECTOR_ENCODING_FLOAT32


def test_more_encodings_than_there_are_are_one_bad_field_and_not_millions(wire):
    """Each of a hundred thousand was a violation of its own, and held up everybody for seconds."""
    problem = refused(lambda: wire.embed("a", encodings=[99] * 100_000))
    assert [v.field for v in problem.violations] == ["options.encodings"]
    assert "has 100000 encodings, there are 7" in problem.message


def test_texts_beside_token_ids_are_refused(wire):
    ids = [embedding_pb2.TokenIds(ids=[2, 3])]
    request = embedding_pb2.EmbedRequest(options=embed_options(), texts=["a"], token_ids=ids)
    assert refused(lambda: wire.embedding.Embed(request)).violations[0].field == "token_ids"


def test_a_role_with_token_ids_is_refused(wire):
    ids = [embedding_pb2.TokenIds(ids=[2, 3])]
    request = embedding_pb2.EmbedRequest(options=embed_options(role="query"), token_ids=ids)
    assert refused(lambda: wire.embedding.Embed(request)).violations[0].field == "options.role"


def test_token_ids_outside_the_vocabulary_fail_alone(wire):
    ids = [embedding_pb2.TokenIds(ids=i) for i in ([2, 3], [2, 1_000_000, 3], [-1], [])]
    found = wire.embedding.Embed(embedding_pb2.EmbedRequest(options=embed_options(), token_ids=ids))
    problems = [item_problem(item) for item in found.items]
    assert problems[0] is None
    assert [p.violations[0].field for p in problems[1:]] == ["token_ids[1]", "token_ids[2]", "token_ids[3]"]


def test_normalize_false_is_refused_where_the_graph_normalises(wire):
    problem = refused(lambda: wire.embed("a", normalize=False))
    assert problem.violations[0].field == "options.normalize"


def test_an_instruction_over_its_limit_is_refused(wire):
    problem = refused(lambda: wire.embed("a", instruction="é" * 2049))
    assert problem.violations[0].field == "options.instruction"
    assert "4096" in problem.message


def test_more_items_than_the_limit_are_refused(wire):
    problem = refused(lambda: wire.embed(*["a"] * 1025))
    assert "1025 texts" in problem.message
    assert "batch_item_count" in problem.message


def test_a_message_over_the_limit_is_refused_in_clear_words(wire):
    with pytest.raises(grpc.RpcError) as error:
        wire.embed("x" * (16 << 20), "y")
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.value.details()
    assert wire.embed("one text").items[0].token_count == 4


def test_a_deadline_that_has_passed_is_kept(wire):
    with pytest.raises(grpc.RpcError) as error:
        wire.embed(*["a few words of text"] * 1000, timeout=0.001)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_unknown_method_is_unimplemented(wire):
    with pytest.raises(grpc.RpcError) as error:
        wire.channel.unary_unary("/whit.v1.EmbeddingService/Nothing")(b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_names_of_encodings_and_numbers_agree():
    assert {name: ENCODING_NUMBERS[name] for name in Encoding} == {
        Encoding.FLOAT32: FLOAT32,
        Encoding.FLOAT16: FLOAT16,
        Encoding.INT8: INT8,
        Encoding.BINARY: BINARY,
        Encoding.BITS_2: vector_pb2.VECTOR_ENCODING_BITS_2,
        Encoding.BITS_3: vector_pb2.VECTOR_ENCODING_BITS_3,
        Encoding.BITS_4: vector_pb2.VECTOR_ENCODING_BITS_4,
    }
