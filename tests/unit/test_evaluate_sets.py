"""Models on sets: codes keep what they should, the probe learns, the stress test asks for every pair, forms are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tests.support import tables
from tests.support.tiny import write_checkpoint
from whit.contract.vectors import binary_codes
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.errors import OptionError
from whit.export.evaluate.codes import Code, pair_similarity, search
from whit.export.evaluate.data import Classification, EvaluationError, Retrieval, Sts
from whit.export.evaluate.limit import limit_set
from whit.export.evaluate.metrics import FloatMatrix, ranking
from whit.export.evaluate.model import DOCUMENT, QUERY, Model, open_models
from whit.export.evaluate.mteb_adapter import MtebEncoder
from whit.export.evaluate.probe import out_of_fold_hits
from whit.export.evaluate.run import evaluate
from whit.export.evaluate.sets import ClassificationSet, EvaluationSet, Form, LimitSet, RetrievalSet, StsSet, open_sets
from whit.runtime import Tokenizer, open_encoder, open_package

TEXTS = ["the cat sat on the mat", "a file on the server", "good", "two men and a dog play " * 30, "water " * 3]


def unit(count: int, dims: int = 128, seed: int = 0, shift: float = 0.8) -> FloatMatrix:
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, dims)) + shift  # off centre, as real models' vectors are
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    checkpoint = write_checkpoint(folder / "checkpoint")
    compile_checkpoint(checkpoint, folder / "tiny", ExportOptions(dtype="float32"))
    return folder / "tiny"


# Codes


def test_fewer_bits_keep_less_of_the_ranking() -> None:
    documents, queries = unit(400), unit(50, seed=1)
    whole = ranking(documents, queries, 10)

    def kept(code: Code) -> float:
        found = search(documents, queries, code)
        return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, whole, strict=True)]))

    shares = [kept(code) for code in (Code.FLOAT32, Code.INT8, Code.BITS_4, Code.BITS_3, Code.BITS_2, Code.BINARY)]

    assert shares[0] == 10
    assert shares == sorted(shares, reverse=True)
    assert shares[1] > 9
    assert kept(Code.BINARY) < kept(Code.BINARY_RESCORED)


def test_centring_helps_bits_of_vectors_that_lie_to_one_side() -> None:
    documents, queries = unit(400, shift=2), unit(50, seed=1, shift=2)
    whole, mean = ranking(documents, queries, 10), documents.mean(axis=0)
    plain, centred = (search(documents, queries, Code.BINARY, centre) for centre in (None, mean))

    def same(found: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> int:
        return sum(len(np.intersect1d(a, b)) for a, b in zip(found, whole, strict=True))

    assert same(centred) > 1.2 * same(plain)


def test_binary_similarity_orders_as_the_hamming_distance_does() -> None:
    first, second = unit(30), unit(30, seed=1)
    hamming = np.unpackbits(binary_codes(first) ^ binary_codes(second), axis=1).sum(axis=1)

    similarity = pair_similarity(first, second, Code.BINARY)

    np.testing.assert_allclose(similarity, 1 - hamming / 64, atol=1e-6)


def test_rescoring_all_candidates_is_an_int8_search() -> None:
    documents, queries = unit(40), unit(8, seed=1)

    found = search(documents, queries, Code.BINARY_RESCORED, rescored=4)

    assert np.array_equal(found, search(documents, queries, Code.INT8))


def test_row_bytes_are_those_of_the_codes() -> None:
    assert [code.row_bytes(384) for code in Code] == [1536, 768, 388, 208, 156, 104, 48, 48]


# Probe and stress test


def test_probe_learns_a_linear_rule_and_nothing_from_noise() -> None:
    vectors = unit(300, 16)
    rule = np.where(vectors[:, 0] > np.median(vectors[:, 0]), "yes", "no").tolist()
    chance = np.random.default_rng(0).choice(["yes", "no"], 300).tolist()

    assert out_of_fold_hits(vectors, rule).mean() > 0.8
    assert 0.4 < out_of_fold_hits(vectors, chance).mean() < 0.6


def test_probe_with_more_labels_than_folds_and_a_single_text() -> None:
    centres = unit(8)
    labels = [f"label {i}" for i in range(8) for _ in range(10)]
    vectors = np.repeat(centres, 10, axis=0) + 0.02 * np.random.default_rng(0).standard_normal((80, 128))

    hits = out_of_fold_hits(vectors.astype(np.float32), [*labels[:-1], "alone"])

    assert hits[:-1].mean() > 0.9
    assert not hits[-1]


def test_every_pair_of_documents_is_asked_for_and_the_answers_are_in_the_text() -> None:
    found = limit_set(12)

    assert [tuple(gains) for gains in found.judgements.values()] == list(combinations(range(12), 2))
    for query, (text, gains) in enumerate(zip(found.queries, found.judgements.values(), strict=True)):
        liking = text.removeprefix("Who likes ").removesuffix("?")
        holders = {i for i, document in enumerate(found.documents) if liking in document}
        assert holders == set(gains), query


@pytest.mark.parametrize("count", [2, 55])
def test_stress_test_has_bounds(count: int) -> None:
    with pytest.raises(OptionError, match="3 to 54 documents"):
        limit_set(count)


# Models


def test_vectors_are_the_runtimes_own_whatever_is_embedded_beside_them(package: Path) -> None:
    opened = open_package(package)
    tokenizer, limit = Tokenizer(opened), opened.manifest.max_token_count
    ids = [tokenizer.cut(each, limit) for each in tokenizer.encode(TEXTS)]
    model = Model(package, threads=2)

    vectors = model.embed([*TEXTS, *TEXTS])

    assert vectors[:5].tobytes() == vectors[5:].tobytes() == open_encoder(opened).encode(ids).tobytes()
    assert model.cut_count == 1  # and it is counted once


def test_a_text_without_tokens_has_no_direction(tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    model = Model(tables.write(tmp_path / "static"))

    assert not model.embed(["", " "]).any()


def test_prompts_are_put_before_texts_of_their_role(package: Path) -> None:
    model = Model(package)
    model.package = dataclasses.replace(
        model.package, manifest=dataclasses.replace(model.package.manifest, prompts={"query": "find: "})
    )

    assert np.array_equal(model.embed(["good"], role=QUERY), model.embed(["find: good"]))
    assert np.array_equal(model.embed(["good"], role=DOCUMENT), model.embed(["good"]))


def test_models_of_one_name_are_told_apart(package: Path) -> None:
    assert [model.name for model in open_models([package, package])] == [str(package), str(package)]
    assert [model.name for model in open_models([package])] == ["tiny"]


class Fixed(Model):
    """A package whose vectors are given."""

    def __init__(self, package: Path, name: str, vectors: dict[str, list[float]]) -> None:
        super().__init__(package, name=name)
        self.vectors = vectors

    @property
    def dimension_count(self) -> int:
        return len(next(iter(self.vectors.values())))

    def embed(self, texts: Sequence[str], *, role: str | None = None) -> FloatMatrix:
        return np.array([self.vectors[text] for text in texts], np.float32)


def test_scores_of_known_vectors(package: Path) -> None:
    vectors = {"a": [1.0, 0.0], "b": [0.8, 0.6], "c": [0.0, 1.0]}
    model = Fixed(package, "fixed", vectors)
    sets: list[EvaluationSet] = [
        StsSet("sts", Sts(["a", "a", "b"], ["a", "c", "c"], np.array([5.0, 0, 2]))),
        RetrievalSet("search", Retrieval(["a", "b", "c"], ["a"], {0: {1: 1.0}})),
        LimitSet("limit", Retrieval(["a", "b", "c"], ["a"], {0: {0: 1.0, 2: 1.0}})),
        ClassificationSet("labels", Classification(["a", "c"] * 10, ["x", "y"] * 10)),
    ]

    results = evaluate([model], sets, rounds=10)

    assert [result.rows[0].score for result in results] == pytest.approx([100, 100 / np.log2(3), 50, 100])
    assert [result.metric for result in results] == ["Spearman", "nDCG@10", "recall@2", "accuracy"]


def test_forms_are_compared_with_the_first_models_same_form_and_its_own_first(package: Path) -> None:
    random = np.random.default_rng(0)
    texts = [f"t{i}" for i in range(60)]
    one, two = ({t: row.tolist() for t, row in zip(texts, unit(60, 16, seed), strict=True)} for seed in (1, 2))
    models = [Fixed(package, "one", one), Fixed(package, "two", two)]
    pairs = StsSet("sts", Sts(texts[:30], texts[30:], random.random(30)))

    rows = evaluate(models, [pairs], [Form(), Form(8, Code.INT8)], rounds=20)[0].rows

    assert [(row.model, row.dimension_count, row.code, row.against) for row in rows] == [
        ("one", 16, "float32", None),
        ("one", 8, "int8", "one, 16 float32"),
        ("two", 16, "float32", "one, 16 float32"),
        ("two", 8, "int8", "one, 8 int8"),
    ]
    assert rows[0].comparison is None
    assert rows[3].comparison is not None
    assert rows[3].comparison.difference == pytest.approx(rows[3].score - rows[1].score)


def test_too_many_dimensions_are_refused_by_name(package: Path) -> None:
    with pytest.raises(OptionError, match=r"dims must be 1 to .* the dimensions of tiny; got 9999"):
        evaluate([Model(package)], [], [Form(9999)])


def test_retrieval_folder_and_split_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="nowhere has no corpus"):
        open_sets(retrieval=[f"{tmp_path}/nowhere:dev"])
    with pytest.raises(EvaluationError, match="no evaluation set"):
        open_sets()


# mteb, which is not installed here: what its EncoderProtocol asks for


def test_encoder_takes_batches_and_texts_in_order(package: Path) -> None:
    encoder, model = MtebEncoder(package), Model(package)
    batches = [{"text": ["good", "water"], "id": ["1", "2"]}, {"text": ["water"]}]

    vectors = encoder.encode(batches, task_metadata=None, hf_split="test", hf_subset="default", prompt_type=None)

    assert np.array_equal(vectors, model.embed(["good", "water", "water"]))
    assert np.array_equal(encoder.encode(["good"], task_name="STS"), vectors[:1])
    assert encoder.similarity(vectors, vectors[:2]).shape == (3, 2)
    np.testing.assert_allclose(encoder.similarity_pairwise(vectors, vectors), 1, atol=1e-5)


def test_batch_without_text_is_refused(package: Path) -> None:
    with pytest.raises(ValueError, match="a batch has image but no text"):
        MtebEncoder(package).encode([{"image": []}])
