"""A static package at run time: its vectors are the means of its rows, and depend on nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import packages, tables
from whit.contract.manifest import TABLE_FILE, TOKENIZER_FILE, Ngrams, PackageError
from whit.runtime import Tokenizer, open_encoder, open_package, open_tokenizer, verify
from whit.runtime.static import StaticEncoder, decode_products, open_table

TEXTS = ["the house", "many of the long names", "a", "the the the", "people could see the water! 42"]


def opened(directory: Path) -> tuple[Tokenizer, StaticEncoder]:
    package = open_package(directory)
    encoder = open_encoder(package)
    assert isinstance(encoder, StaticEncoder)
    return Tokenizer(package), encoder


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_a_vector_is_the_mean_of_its_rows(dtype: str, tmp_path: Path) -> None:
    tokenizer, encoder = opened(tables.write(tmp_path / "p", dtype, normalized=False))
    step = 0.5 if dtype == "int8" else 1.0
    sequences = tokenizer.encode(TEXTS)

    wanted = [tables.rows()[ids].mean(axis=0) * step for ids in sequences]

    assert np.allclose(encoder.run(sequences), wanted, atol=1e-5)
    assert tables.TOKENS.index("house") in sequences[0]


@pytest.mark.parametrize("dtype", ["int8", "float16", "pq"])
def test_vectors_have_length_1(dtype: str, tmp_path: Path) -> None:
    tokenizer, encoder = opened(tables.write(tmp_path / "p", dtype))

    vectors = encoder.run(tokenizer.encode(TEXTS))

    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "float16", "pq"])
@pytest.mark.parametrize("normalized", [True, False])
def test_a_vector_has_the_same_bits_alone_and_in_any_batch(dtype: str, normalized: bool, tmp_path: Path) -> None:
    """Real-valued rows, lengths from 1 to 64, in several orders and cuts: sums of floats would show any regrouping."""
    rng = np.random.default_rng(3)
    table = tables.tensors(dtype)
    if dtype == "float16":
        table["rows"] = rng.normal(size=table["rows"].shape).astype(np.float16)
    _, encoder = opened(tables.write(tmp_path / "p", dtype, table=table, normalized=normalized))
    sequences = [rng.integers(0, len(tables.TOKENS), rng.integers(1, 65)) for _ in range(300)]

    alone = np.concatenate([encoder.run([ids]) for ids in sequences])

    assert np.array_equal(encoder.run(sequences), alone)
    assert np.array_equal(encoder.encode(sequences, token_budget=7), alone)
    order = rng.permutation(len(sequences))
    for size in (2, 7, 64):
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            assert np.array_equal(encoder.run([sequences[i] for i in batch]), alone[batch])


def test_the_order_of_tokens_changes_no_bit_of_int8(tmp_path: Path) -> None:
    _, encoder = opened(tables.write(tmp_path / "p"))
    rng = np.random.default_rng(4)
    ids = rng.integers(0, len(tables.TOKENS), 64)

    assert np.array_equal(encoder.run([ids]), encoder.run([rng.permutation(ids)]))


def test_rows_that_add_up_to_nothing_give_the_zero_vector(tmp_path: Path) -> None:
    table = tables.tensors("int8")
    table["rows"][:] = 0
    _, encoder = opened(tables.write(tmp_path / "p", table=table))

    assert np.array_equal(encoder.run([np.array([5, 6])]), np.zeros((1, tables.DIMENSION_COUNT)))


def test_no_texts_give_no_vectors(tmp_path: Path) -> None:
    _, encoder = opened(tables.write(tmp_path / "p"))

    assert encoder.run([]).shape == (0, tables.DIMENSION_COUNT)


def test_products_decode_to_their_centroids_times_their_length() -> None:
    codes = np.array([[0, 1], [1, 0]], np.uint8)
    centroids = np.zeros((2, 256, 2), np.int8)
    centroids[0, 0], centroids[0, 1], centroids[1, 0], centroids[1, 1] = (100, 0), (0, 50), (20, 40), (-127, 1)

    rows, step = decode_products(codes, centroids, np.array([1, 0.5], np.float16))

    assert np.allclose(rows * step, [[100, 0, -127, 1], [0, 25, 10, 20]], atol=step / 2)


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_the_table_is_mapped_not_read(dtype: str, tmp_path: Path) -> None:
    package = open_package(tables.write(tmp_path / "p", dtype))

    rows, _ = open_table(package.directory / TABLE_FILE, package.manifest)

    base = rows
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert type(base).__name__ == "mmap"
    assert not rows.flags.writeable


@pytest.mark.parametrize("dtype", ["int8", "float16", "pq"])
def test_it_verifies(dtype: str, tmp_path: Path) -> None:
    package = open_package(tables.write(tmp_path / "p", dtype))

    found = verify(package, Tokenizer(package), open_encoder(package))

    assert (found.verified, found.mixes_lengths, found.tolerance) == (True, True, 1e-5)


def test_a_table_of_ngrams_verifies_and_has_no_tokenizer(tmp_path: Path) -> None:
    package = open_package(tables.write(tmp_path / "p", ngrams=Ngrams(3, 4)))

    found = verify(package, open_tokenizer(package), open_encoder(package))

    assert (found.verified, found.mixes_lengths) == (True, True)
    assert not (package.directory / TOKENIZER_FILE).exists()
    with pytest.raises(PackageError, match=r"tokenizer.json cannot be read"):
        Tokenizer(package)


def test_a_changed_row_does_not_verify(tmp_path: Path) -> None:
    directory = tables.write(tmp_path / "p")
    table = tables.tensors("int8")
    table["rows"][:, 0] += 3
    tables.save(directory, table)
    packages.reseal(directory)
    package = open_package(directory)

    assert not verify(package, Tokenizer(package), open_encoder(package)).verified


BAD = {
    "no step": lambda t: t.pop("step"),
    "no rows": lambda t: t.pop("rows"),
    "float rows": lambda t: t.update(rows=t["rows"].astype(np.float32)),
    "fewer rows": lambda t: t.update(rows=t["rows"][:-1].copy()),
    "narrower": lambda t: t.update(rows=t["rows"][:, :-1].copy()),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_table_of_another_form_is_refused(fault: str, tmp_path: Path) -> None:
    directory = tables.write(tmp_path / "p")
    table = tables.tensors("int8")
    BAD[fault](table)
    tables.save(directory, table)
    packages.reseal(directory)

    with pytest.raises(PackageError, match=r"table.safetensors (lacks|has rows).*export it again"):
        open_encoder(open_package(directory))


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b'\x09\0\0\0\0\0\0\0{"rows":3}'])
def test_a_file_that_is_no_table_is_refused(data: bytes, tmp_path: Path) -> None:
    directory = tables.write(tmp_path / "p")
    (directory / TABLE_FILE).write_bytes(data)
    packages.reseal(directory)

    with pytest.raises(PackageError, match="is no safetensors table"):
        open_encoder(open_package(directory))


def test_a_token_beyond_the_table_does_not_verify(tmp_path: Path) -> None:
    """A tokenizer of another package: its ids lie outside."""
    table = tables.tensors("int8")
    table["rows"] = table["rows"][:100].copy()
    directory = tables.write(tmp_path / "p")
    tables.save(directory, table)
    packages.reseal(directory, vocabulary_size=100)
    package = open_package(directory)

    with pytest.raises(PackageError, match=r"table.safetensors cannot embed the golden texts"):
        verify(package, Tokenizer(package), open_encoder(package))


def test_onnxruntime_is_never_loaded(tmp_path: Path) -> None:
    directory = tables.write(tmp_path / "p")
    code = (
        "import sys; from whit.server.engine.loading import load_model; from pathlib import Path\n"
        f"model = load_model(Path({str(directory)!r}))\n"
        "assert model.verified and 'onnxruntime' not in sys.modules, 'loaded'"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
