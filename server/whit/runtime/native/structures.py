"""The structures of the C code, field by field as ``encoder.c``, ``linear.h`` and ``rows.h`` have them."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p


class CLinear(Structure):
    """``Linear``."""

    _fields_ = (
        ("weights", c_void_p),
        ("order", c_void_p),
        ("couples", c_void_p),
        ("scales", c_void_p),
        ("starts", c_void_p),
        ("biases", c_void_p),
        ("late_biases", c_void_p),
        ("factors", c_void_p),
        ("input_count", c_int64),
        ("panel_count", c_int64),
        ("scheme", c_int32),
        ("zero", c_int32),
    )


CALIBRATED, BY_TOKEN, FLOAT = range(3)  # scheme of a Linear


class CNorm(Structure):
    """``Norm``."""

    _fields_ = (("gain", c_void_p), ("bias", c_void_p))


class CRows(Structure):
    """``Rows``."""

    _fields_ = (
        ("kind", c_int32),
        ("places", c_void_p),
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("scale_count", c_int64),
        ("scale_of", c_void_p),
        ("centroids", c_void_p),
        ("code_count", c_int64),
    )


FLOATS, BYTES, PAIRS, PRODUCTS = range(4)  # kind of Rows


class CLayer(Structure):
    """``Layer``."""

    _fields_ = (
        *((name, CLinear) for name in ("qkv", "out", "up", "down")),
        ("attention_norm", CNorm),
        ("output_norm", CNorm),
        ("head_count", c_int64),
        ("inner_count", c_int64),
        ("weighing_head", c_int64),
        ("ceiling", c_float),
    )


class CDense(Structure):
    """``Dense``."""

    _fields_ = (("linear", CLinear), ("activation", c_int32))


MEAN, FIRST, LARGEST, BY_ROOT, BY_PLACE, BY_HEAD = range(6)  # pooling of a Model
ACTIVATIONS = ("identity", "relu", "tanh", "gelu")  # of a Dense, in its order


class CModel(Structure):
    """``Model``."""

    _fields_ = (
        ("words", CRows),
        ("positions", CRows),
        ("norm", CNorm),
        ("projection", CLinear),
        ("layers", POINTER(CLayer)),
        ("dense", POINTER(CDense)),
        ("layer_count", c_int64),
        ("dense_count", c_int64),
        ("embedding_width", c_int64),
        ("width", c_int64),
        ("dimension_count", c_int64),
        ("head_width", c_int64),
        ("head_panels", c_int64),
        ("most_heads", c_int64),
        ("most_inner", c_int64),
        ("most_wide", c_int64),
        ("most_pooled", c_int64),
        ("position_offset", c_int64),
        ("relative_bias", c_void_p),
        ("relative_reach", c_int64),
        ("curve", c_void_p),
        ("epsilon", c_float),
        ("pooling", c_int32),
        ("averages", c_int32),
        ("normalize", c_int32),
    )
