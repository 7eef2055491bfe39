"""Options that are sent again and again are checked once; others are not taken for them, and no large ones are kept."""

import pytest

from tests.support.fake_engine import make_engine, make_model
from whit.contract.errors import Reason
from whit.server.errors import ServiceError
from whit.server.service.embedding import Plans
from whit.v1 import embedding_pb2, vector_pb2


def options(**fields):
    return embedding_pb2.EmbedOptions(model="models/m", normalize=False, **fields)


def with_unknown_field(byte_count):
    """Options with a field 1000 of so many bytes, as a later version may send them."""
    length = bytes([byte_count & 0x7F | 0x80, byte_count >> 7 & 0x7F | 0x80, byte_count >> 14])
    return embedding_pb2.EmbedOptions.FromString(
        options().SerializeToString() + b"\xc2\x3e" + length + bytes(byte_count)
    )


def test_the_same_options_have_the_same_plan_and_others_their_own():
    plans = Plans(make_engine(make_model()))
    plain, cut = plans.of(options()), plans.of(options(instruction="query: "))
    assert plans.of(options()) is plain
    assert plans.of(options(instruction="query: ")) is cut
    assert (plain.spec.prompt, cut.spec.prompt, cut.prompt_field) == ("", "query: ", "options.instruction")
    assert not plain.fits_codes
    assert plans.of(options(encodings=[vector_pb2.VECTOR_ENCODING_BITS_4])).fits_codes


def test_bad_options_are_refused_each_time():
    plans = Plans(make_engine(make_model()))
    for _ in range(2):
        with pytest.raises(ServiceError) as caught:
            plans.of(options(dimension_count=10**6))
        assert caught.value.problem.reason is Reason.INVALID_REQUEST
        assert [violation.field for violation in caught.value.problem.violations] == ["options.dimension_count"]


def test_large_options_are_read_each_time():
    plans = Plans(make_engine(make_model()))
    assert plans.of(with_unknown_field(100)) is plans.of(with_unknown_field(100))
    assert plans.of(with_unknown_field(20_000)) is not plans.of(with_unknown_field(20_000))
    assert plans.of(with_unknown_field(20_000)) == plans.of(options())
