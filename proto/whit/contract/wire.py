"""The vector encodings by their numbers on the wire."""

from __future__ import annotations

from collections.abc import Mapping

from whit.contract.vectors import Encoding
from whit.v1 import vector_pb2

ENCODING_NUMBERS: Mapping[Encoding, vector_pb2.VectorEncoding.ValueType] = {
    Encoding.FLOAT32: vector_pb2.VECTOR_ENCODING_FLOAT32,
    Encoding.FLOAT16: vector_pb2.VECTOR_ENCODING_FLOAT16,
    Encoding.INT8: vector_pb2.VECTOR_ENCODING_INT8,
    Encoding.BINARY: vector_pb2.VECTOR_ENCODING_BINARY,
    Encoding.BITS_2: vector_pb2.VECTOR_ENCODING_BITS_2,
    Encoding.BITS_3: vector_pb2.VECTOR_ENCODING_BITS_3,
    Encoding.BITS_4: vector_pb2.VECTOR_ENCODING_BITS_4,
}
ENCODINGS: Mapping[int, Encoding] = {number: encoding for encoding, number in ENCODING_NUMBERS.items()}
