"""The vectors of a teacher on disk: each text's is computed once, whatever list it stands in."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.disk import full_disk
from tests.support.tiny import write_checkpoint
from whit.export.checkpoint import FloatArray
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.distill.teacher import PackageTeacher
from whit.export.distill.vectors import RowStore, TeacherVectors
from whit.export.errors import CheckpointError
from whit.runtime.encoder import Encoder
from whit.runtime.package import Package, open_package
from whit.runtime.tokenizer import Tokenizer

TEXTS = [f"{word} is a {other} word" for word in ("good", "old", "small", "long") for other in ("new", "first", "last")]
EVERYTHING = np.arange(len(TEXTS))


class Counted(PackageTeacher):
    """A teacher that remembers what it was asked."""

    def __init__(self, package: Package) -> None:
        super().__init__(package)
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str], max_token_count: int) -> FloatArray:
        self.asked += texts
        return super().encode(texts, max_token_count)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("teacher")
    compile_checkpoint(write_checkpoint(folder / "checkpoint"), folder / "package", ExportOptions(dtype="float32"))
    return open_package(folder / "package")


@pytest.fixture
def teacher(package: Package) -> Counted:
    return Counted(package)


@pytest.fixture(scope="module")
def expected(package: Package) -> FloatArray:
    return Encoder(package).encode(Tokenizer(package).encode(TEXTS))


def kept(teacher: PackageTeacher, texts: Sequence[str], cache: Path, limit: int = 64) -> TeacherVectors:
    return TeacherVectors(teacher, texts, cache, max_token_count=limit)


def test_they_are_the_packages_and_are_computed_once(teacher: Counted, expected: FloatArray, tmp_path: Path) -> None:
    some = np.array([3, 1])
    assert np.allclose(kept(teacher, TEXTS, tmp_path).rows(some), expected[some], atol=1e-3)

    again = kept(teacher, TEXTS, tmp_path)
    assert np.allclose(again.rows(EVERYTHING), expected, atol=1e-3)
    assert np.allclose(again.rows(EVERYTHING), expected, atol=1e-3)
    assert sorted(teacher.asked) == sorted(TEXTS)


def test_texts_that_are_added_cost_their_own_time_only(teacher: Counted, expected: FloatArray, tmp_path: Path) -> None:
    kept(teacher, TEXTS[4:8], tmp_path).rows(np.arange(4))
    teacher.asked.clear()

    assert np.allclose(kept(teacher, TEXTS, tmp_path).rows(EVERYTHING), expected, atol=1e-3)

    assert sorted(teacher.asked) == sorted(TEXTS[:4] + TEXTS[8:])


def test_a_text_read_to_another_length_has_a_vector_of_its_own(teacher: Counted, tmp_path: Path) -> None:
    whole = kept(teacher, TEXTS, tmp_path).rows(EVERYTHING)
    assert not np.allclose(kept(teacher, TEXTS, tmp_path, limit=4).rows(EVERYTHING), whole, atol=1e-2)


def test_a_key_names_texts_and_length(teacher: Counted, tmp_path: Path) -> None:
    lists = [
        kept(teacher, TEXTS, tmp_path),
        kept(teacher, TEXTS[1:], tmp_path),
        kept(teacher, TEXTS, tmp_path, limit=4),
    ]
    assert len({each.key for each in lists}) == 3


def test_runs_side_by_side_keep_each_others_rows(teacher: Counted, expected: FloatArray, tmp_path: Path) -> None:
    first, second = kept(teacher, TEXTS, tmp_path), kept(teacher, TEXTS, tmp_path)
    first.rows(EVERYTHING[:5])
    second.rows(EVERYTHING[7:])
    first.rows(EVERYTHING[5:7])
    first.rows(EVERYTHING)
    assert sorted(teacher.asked) == sorted(TEXTS)  # what the other has computed is found
    for run in (first, second):
        assert np.allclose(run.rows(EVERYTHING), expected, atol=1e-3)
    teacher.asked.clear()
    kept(teacher, TEXTS, tmp_path).rows(EVERYTHING)
    assert not teacher.asked


@pytest.mark.parametrize("size", [None, 0, 100])
def test_what_was_removed_or_cut_short_is_computed_again(
    size: int | None, teacher: Counted, expected: FloatArray, tmp_path: Path
) -> None:
    kept(teacher, TEXTS, tmp_path).rows(EVERYTHING)
    (file,) = tmp_path.glob("vectors-*")
    file.unlink() if size is None else os.truncate(file, size)

    for _ in range(2):  # the second finds what the first has put after the cut
        assert np.allclose(kept(teacher, TEXTS, tmp_path).rows(EVERYTHING), expected, atol=1e-3)


def test_a_file_that_shrinks_while_it_is_used_is_an_error(tmp_path: Path) -> None:
    store = RowStore(tmp_path / "rows", 2)
    store.append([bytes(16), bytes(range(16))], np.ones((2, 2), np.float32))
    assert store.find([bytes(range(16)), b"x" * 16]).tolist() == [1, -1]
    os.truncate(tmp_path / "rows", 20)
    with pytest.raises(CheckpointError, match="run again"):
        store.find([bytes(16)])


def test_a_cache_that_cannot_be_written_is_named_before_anything_is_computed(teacher: Counted, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="choose another --cache"):
        kept(teacher, TEXTS, tmp_path / "file")


def test_a_full_disk_loses_no_row_that_was_written(teacher: Counted, expected: FloatArray, tmp_path: Path) -> None:
    vectors = kept(teacher, TEXTS, tmp_path)
    vectors.rows(EVERYTHING[:2])
    (file,) = tmp_path.glob("vectors-*")
    with full_disk(file.stat().st_size + 50), pytest.raises(CheckpointError, match=r"the disk is full\); free space"):
        vectors.rows(EVERYTHING)
    teacher.asked.clear()

    assert np.allclose(kept(teacher, TEXTS, tmp_path).rows(EVERYTHING), expected, atol=1e-3)
    assert sorted(teacher.asked) == sorted(TEXTS[2:])
