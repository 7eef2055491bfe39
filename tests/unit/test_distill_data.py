"""Distillation, the parts without torch: order of the texts, teachers, projections, options."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny import write_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.distill.batches import CHUNK, TOPIC, batches, chunks, topic_chunks
from whit.export.distill.options import DistillOptions
from whit.export.distill.projection import fit_teacher, nearest_rotation, principal_directions, project
from whit.export.distill.schedule import learning_rate_at
from whit.export.distill.teacher import JointTeacher, PackageTeacher, open_teacher
from whit.export.distill.topics import sketch
from whit.export.errors import CheckpointError
from whit.runtime.package import Package, open_package

TEXTS = [f"{word} is a {other} word" for word in ("good", "old", "small", "long") for other in ("new", "first", "last")]
OPTIONS = DistillOptions(teacher=Path("teacher"), texts=(Path("texts"),))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("teacher")
    compile_checkpoint(write_checkpoint(folder / "checkpoint"), folder / "package", ExportOptions(dtype="float32"))
    return open_package(folder / "package")


def test_every_text_comes_once_an_epoch_in_another_order() -> None:
    parts = chunks(CHUNK + 10, seed=1, epoch=0)
    assert [[len(group) for group in part] for part in parts] == [[CHUNK], [10]]
    assert sorted(i for part in parts for group in part for i in group) == list(range(CHUNK + 10))
    assert np.array_equal(parts[0], chunks(CHUNK + 10, seed=1, epoch=0)[0])
    assert not np.array_equal(parts[0], chunks(CHUNK + 10, seed=1, epoch=1)[0])


def test_topics_put_texts_that_are_about_the_same_into_one_batch() -> None:
    random = np.random.default_rng(0)
    about = random.integers(0, 40, CHUNK + 900)  # forty matters, far from each other
    rows = sketch((random.standard_normal((40, 384)) * 4 + random.standard_normal((1, 384)))[about].astype(np.float32))
    rows += 0.1 * random.standard_normal(rows.shape, np.float32)
    parts = topic_chunks(rows, seed=1, epoch=0)
    groups = [group for part in parts for group in part]
    assert sorted(np.concatenate(groups).tolist()) == list(range(CHUNK + 900))
    assert max(map(len, groups)) <= TOPIC
    assert all(sum(map(len, part)) <= CHUNK for part in parts)
    assert np.mean([len(set(about[group])) for group in groups]) < 10  # a random group has all forty
    again, other = (topic_chunks(rows, seed=1, epoch=epoch)[0][0] for epoch in (0, 1))
    assert np.array_equal(groups[0], again)
    assert set(groups[0]) != set(other)


def test_a_batch_keeps_to_one_group() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 90).tolist()
    plan = batches(lengths, 256, seed=(3, 0, 0), group_sizes=[40, 50])
    assert sorted(i for batch in plan for i in batch) == list(range(90))
    assert all(len({i < 40 for i in batch}) == 1 for batch in plan)


def test_batches_hold_texts_of_similar_length_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 500).tolist()
    plan = batches(lengths, 256, seed=(3, 0, 0))
    assert sorted(i for batch in plan for i in batch) == list(range(500))
    assert all(max(lengths[i] for i in batch) * len(batch) <= 256 for batch in plan)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in plan)
    assert padded < 1.1 * sum(lengths)
    assert plan == batches(lengths, 256, seed=(3, 0, 0))


def test_a_text_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    assert sorted(batches([100, 2, 2], 10, seed=(0,))) in ([[0], [1, 2]], [[0], [2, 1]])


def test_the_cosines_of_a_joint_teacher_are_the_means_of_its_teachers(package: Package, tmp_path: Path) -> None:
    compile_checkpoint(
        write_checkpoint(tmp_path / "other", seed=5), tmp_path / "package", ExportOptions(dtype="float32")
    )
    teachers = [PackageTeacher(package), PackageTeacher(open_package(tmp_path / "package"))]
    joint = JointTeacher(teachers)

    def cosines(vectors: Any) -> Any:
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return units @ units.T

    found = joint.encode(TEXTS, 64)
    assert found.shape == (len(TEXTS), joint.dimension_count)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    first, second = (cosines(teacher.encode(TEXTS, 64)) for teacher in teachers)
    assert not np.allclose(first, second, atol=1e-2)
    assert np.allclose(cosines(found), (first + second) / 2, atol=1e-5)


def test_a_teacher_checkpoint_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    first = open_teacher(checkpoint, tmp_path / "cache", "float32", lambda *_: None)
    monkeypatch.delattr("whit.export.distill.teacher.compile_checkpoint")
    again = open_teacher(checkpoint, tmp_path / "cache", "float32", lambda *_: None)
    assert first.manifest.fingerprint == again.manifest.fingerprint
    assert open_teacher(first.directory, tmp_path, "int8", lambda *_: None).directory == first.directory


def test_a_teacher_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        open_teacher(tmp_path / "nothing", tmp_path, "float32", lambda *_: None)


def test_principal_directions_keep_the_cosines_of_flat_vectors() -> None:
    random = np.random.default_rng(0)
    flat = (random.standard_normal((200, 4)) @ random.standard_normal((4, 16))).astype(np.float32)
    directions = principal_directions(flat, 4)
    assert np.allclose(directions.T @ directions, np.eye(4), atol=1e-5)
    assert np.allclose((flat @ directions) @ (flat @ directions).T, flat @ flat.T, rtol=1e-3, atol=1e-2)


def test_the_teacher_is_turned_to_where_the_student_is() -> None:
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.standard_normal((8, 8)))[0].astype(np.float32)
    student = random.standard_normal((100, 8)).astype(np.float32)
    assert np.allclose(nearest_rotation(student @ turn, student), turn.T, atol=1e-4)
    teacher = np.concatenate([student @ turn, np.zeros((100, 3), np.float32)], axis=1)
    assert np.allclose(project(teacher, fit_teacher(teacher, student)), student, atol=1e-3)


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    for decay in ("cosine", "linear"):
        options = replace(OPTIONS, warmup=0.1, decay=decay)
        assert learning_rate_at(0.05, options) == pytest.approx(0.5)
        assert learning_rate_at(0.1, options) == pytest.approx(1)
        assert learning_rate_at(0.55, options) == pytest.approx(0.5)
        assert learning_rate_at(1, options) == learning_rate_at(1.2, options) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"learning_rate": 2.0}, "learning_rate must be between 0 and 1"),
        ({"freeze": "half"}, "freeze must be one of none, words, embeddings, got half"),
        ({"max_minutes": 0.0}, "max_minutes must be above 0"),
        ({"cosine_weight": 0.0, "similarity_weight": 0.0}, "hidden_weight must be above 0"),
        ({"hidden_weight": -1.0}, "hidden_weight must be 0 or more"),
        ({"texts": ()}, "texts or pairs must be at least one file"),
    ],
)
def test_options_out_of_range_are_named(change: dict[str, Any], message: str) -> None:
    OPTIONS.check()
    with pytest.raises(CheckpointError, match=message):
        replace(OPTIONS, **change).check()
