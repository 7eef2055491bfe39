"""Vectors as bytes: what each encoding keeps, byte by byte, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from whit.contract.vectors import EncodedVectors, Encoding, FloatMatrix, decode, encode, int8_codes, native, truncate

shapes = st.tuples(st.integers(0, 5), st.integers(1, 40))
finite = st.floats(-1e4, 1e4, width=32)
matrices = arrays.arrays(np.float32, shapes, elements=finite)
filled = arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=finite)


def matrix(*rows: list[float]) -> FloatMatrix:
    return np.array(rows, np.float32)


# Layout, against bytes worked out by hand


def test_float32_is_little_endian_row_after_row() -> None:
    assert encode(matrix([1, -2], [0.5, 0]), Encoding.FLOAT32) == EncodedVectors(
        Encoding.FLOAT32, 2, 2, bytes.fromhex("0000803f 000000c0 0000003f 00000000")
    )


def test_float16_is_little_endian_and_rounds_to_nearest() -> None:
    encoded = encode(matrix([1, -2, 1 + 2**-11]), Encoding.FLOAT16)

    assert encoded.data == bytes.fromhex("003c 00c0 003c")


def test_int8_has_a_scale_for_each_row() -> None:
    encoded = encode(matrix([127, -1, 0.4], [0, -0.5, 0.25]), Encoding.INT8)

    assert encoded.data == bytes([127, 255, 0, 0, 129, 64])  # -1, then -127 and rint(63.5) in two's complement
    assert np.frombuffer(encoded.scales, "<f4").tolist() == [1.0, np.float32(0.5) / np.float32(127)]


@pytest.mark.parametrize(
    ("row", "data"),
    [
        ([1, -1, 1, 1, -1, -1, -1, -1], "b0"),
        ([0, 1], "40"),  # 0 is not > 0; the six bits that are left are 0
        ([-1] * 8 + [1], "0080"),
        ([1] * 9, "ff80"),
    ],
)
def test_binary_is_most_significant_bit_first(row: list[float], data: str) -> None:
    encoded = encode(matrix(row), Encoding.BINARY)

    assert encoded.data == bytes.fromhex(data)
    assert decode(encoded).tolist() == [[1.0 if value > 0 else -1.0 for value in row]]


def test_residual_codes_are_planes_of_bits_and_a_scale_for_each() -> None:
    encoded = encode(matrix([3, 1, -1, -3, 3, -3, 1, -1, 3], [0] * 9), Encoding.BITS_2)  # +-2 +-1

    assert encoded.data == bytes([0b11001010, 0x80, 0b10101001, 0x80, 0, 0, 0, 0])
    assert np.frombuffer(encoded.scales, "<f4").tolist() == [2, 1, 0, 0]
    assert decode(encoded).tolist() == [[3, 1, -1, -3, 3, -3, 1, -1, 3], [0] * 9]


@given(st.sampled_from(Encoding), shapes)
def test_sizes_are_what_row_bytes_says(encoding: Encoding, shape: tuple[int, int]) -> None:
    encoded = encode(np.ones(shape, np.float32), encoding)

    assert len(encoded.data) == shape[0] * encoding.row_bytes(shape[1])
    assert len(encoded.scales) == 4 * shape[0] * encoding.scale_count


# Round trips


@given(matrices)
def test_float32_comes_back_bit_for_bit(vectors: FloatMatrix) -> None:
    found = decode(encode(vectors, Encoding.FLOAT32))

    assert found.shape == vectors.shape
    assert found.tobytes() == vectors.tobytes()


@given(matrices)
def test_float16_comes_back_within_half_a_unit(vectors: FloatMatrix) -> None:
    found = decode(encode(vectors, Encoding.FLOAT16))

    assert found.dtype == np.float32
    assert np.all(np.abs(found - vectors) <= np.maximum(np.abs(vectors) * 2.0**-11, 2.0**-25))


@given(matrices)
def test_int8_comes_back_within_half_a_step(vectors: FloatMatrix) -> None:
    encoded = encode(vectors, Encoding.INT8)
    scales = np.frombuffer(encoded.scales, "<f4")

    found = decode(encoded)

    assert found.shape == vectors.shape
    assert np.all(np.abs(found - vectors) <= scales[:, None] * np.float32(0.5001) + np.float32(1e-37))


@given(filled)
def test_int8_uses_the_whole_range_and_never_minus_128(vectors: FloatMatrix) -> None:
    codes, scales = int8_codes(vectors)

    assert codes.min() >= -127
    largest = np.abs(codes.astype(np.int32)).max(axis=1)
    assert np.array_equal(largest[scales > 1e-30], np.full((scales > 1e-30).sum(), 127))


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(64)), elements=st.floats(-1, 1, width=32)))
def test_int8_codes_keep_the_cosine(vectors: FloatMatrix) -> None:
    vectors = vectors[np.abs(vectors).max(axis=1) > 1e-3]
    codes = int8_codes(vectors)[0].astype(np.float64)

    cosines = (codes * vectors).sum(axis=1) / np.linalg.norm(codes, axis=1) / np.linalg.norm(vectors, axis=1)

    # Each of 64 values is off by at most half of a 127th of the largest.
    assert np.all(cosines >= 1 - 64 * (0.5 / 127) ** 2)


@given(matrices)
def test_binary_keeps_the_signs(vectors: FloatMatrix) -> None:
    found = decode(encode(vectors, Encoding.BINARY))

    assert np.array_equal(found, np.where(vectors > 0, np.float32(1), np.float32(-1)))


@given(filled, st.sampled_from(Encoding), st.data())
def test_a_row_does_not_depend_on_the_others(vectors: FloatMatrix, encoding: Encoding, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(vectors) - 1))
    together, alone = encode(vectors, encoding), encode(vectors[row : row + 1], encoding)

    assert native(together)[row].tobytes() == alone.data
    size = 4 * encoding.scale_count
    assert together.scales[size * row : size * (row + 1)] == alone.scales


@pytest.mark.parametrize("encoding", Encoding)
def test_zero_rows_and_no_rows(encoding: Encoding) -> None:
    zero = decode(encode(np.zeros((1, 5), np.float32), encoding))
    assert zero.tolist() == ([[-1.0] * 5] if encoding is Encoding.BINARY else [[0.0] * 5])

    none = encode(np.zeros((0, 5), np.float32), encoding)
    assert decode(none).shape == (0, 5)
    assert len(native(none)) == 0


@pytest.mark.parametrize(
    ("encoding", "dtype", "row"),
    [
        ("float32", "<f4", (9,)),
        ("float16", "<f2", (9,)),
        ("int8", "i1", (9,)),
        ("binary", "u1", (2,)),
        ("2bit", "u1", (2, 2)),
        ("4bit", "u1", (4, 2)),
    ],
)
def test_native_codes_are_a_view(encoding: str, dtype: str, row: tuple[int, ...]) -> None:
    encoded = encode(np.ones((3, 9), np.float32), Encoding(encoding))

    found = native(encoded)

    assert (found.dtype, found.shape) == (np.dtype(dtype), (3, *row))
    assert not found.flags.writeable


# Truncation: cut, then normalise, then encode


def test_truncate_then_normalise() -> None:
    vectors = matrix([3, 4, 12], [0, 0, 5])

    assert truncate(vectors, 2, normalize=True).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]
    assert truncate(vectors, 2, normalize=False).tolist() == [[3, 4], [0, 0]]
    assert np.linalg.norm(truncate(vectors, 3, normalize=True)[0]) == pytest.approx(1, abs=1e-7)


@given(filled, st.data())
def test_truncated_rows_have_length_1_and_do_not_depend_on_the_others(
    vectors: FloatMatrix, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, vectors.shape[1]))
    row = data.draw(st.integers(0, len(vectors) - 1))

    found = truncate(vectors, count, normalize=True)

    assert (found.dtype, found.shape, found.flags.c_contiguous) == (np.float32, (len(vectors), count), True)
    lengths = np.linalg.norm(found.astype(np.float64), axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-6) | ((lengths == 0) & (vectors[:, :count] == 0).all(axis=1)))
    assert found[row].tobytes() == truncate(vectors[row : row + 1], count, normalize=True)[0].tobytes()


@pytest.mark.parametrize("dimension_count", [0, -1, 4])
def test_truncate_refuses_a_dimension_count_out_of_range(dimension_count: int) -> None:
    with pytest.raises(ValueError, match=f"dimension_count must be 1 to 3, got {dimension_count}"):
        truncate(matrix([1, 2, 3]), dimension_count, normalize=True)


# What is refused


@pytest.mark.parametrize("vectors", [np.ones(3, np.float32), np.ones((2, 3)), np.ones((1, 2, 3), np.float32)])
def test_encode_takes_float32_matrices_only(vectors: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="vectors must be float32"):
        encode(vectors, Encoding.FLOAT32)  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("change", [-1, 1])
def test_data_of_another_length_is_refused(encoding: Encoding, change: int) -> None:
    encoded = encode(np.ones((2, 9), np.float32), encoding)
    data = encoded.data[:change] if change < 0 else encoded.data + b"\0"
    message = f"data must have {len(encoded.data)} bytes for 2 x 9 {encoding}, got {len(data)}"

    for read in (decode, native):
        with pytest.raises(ValueError, match=message):
            read(dataclasses.replace(encoded, data=data))


@pytest.mark.parametrize("encoding", Encoding)
def test_scales_of_another_length_are_refused(encoding: Encoding) -> None:
    encoded = encode(np.ones((2, 9), np.float32), encoding)

    with pytest.raises(ValueError, match="scales must have"):
        decode(dataclasses.replace(encoded, scales=encoded.scales + b"\0"))


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="data must have"):
        decode(EncodedVectors(Encoding.FLOAT32, -1, -1, b"\0\0\0\0"))
