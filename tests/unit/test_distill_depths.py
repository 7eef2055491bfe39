"""2-D Matryoshka: vectors after fewer layers learn the teacher's vectors, too, where that is asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny import vocabulary, write_checkpoint
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.distill.options import DistillOptions
from whit.export.errors import CheckpointError
from whit.runtime.encoder import Encoder
from whit.runtime.package import open_package

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.train

LAYERS = 3


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> DistillOptions:
    """A run towards a teacher of three layers, whose folder also has the ``student`` that it starts from."""
    folder = tmp_path_factory.mktemp("depths")
    write_checkpoint(folder / "teacher", num_hidden_layers=LAYERS)
    write_checkpoint(folder / "student", seed=1, num_hidden_layers=LAYERS)
    random = np.random.default_rng(0)
    words = [word for word in vocabulary() if word.isalpha() and len(word) > 1]
    lines = [" ".join(random.choice(words, random.integers(2, 9))) for _ in range(400)]
    (folder / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return DistillOptions(
        teacher=folder / "teacher",
        texts=(folder / "texts.txt",),
        cache=folder / "cache",
        epochs=3,
        learning_rate=3e-3,
        batch_token_count=256,
        precision="float32",
        threads=1,
    )


def test_shallow_vectors_get_better_when_they_are_asked_for(options: DistillOptions, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    student = options.teacher.parent / "student"
    plain = distill(student, tmp_path / "plain", options)
    deep = distill(student, tmp_path / "deep", replace(options, depths=(1, 2)))

    assert "cosine_1" not in plain.history[-1]
    assert deep.cosine_after > plain.cosine_after - 0.05  # the last layer pays little for it
    sequences = [np.array([2, *ids, 3]) for ids in np.random.default_rng(5).integers(60, 200, (40, 6))]
    for depth in (1, 2):
        assert deep.history[-1][f"cosine_{depth}"] > deep.history[0][f"cosine_{depth}"] + 0.2
        vectors: dict[str, np.ndarray[Any, Any]] = {}
        for name in ("plain", "deep"):
            package = tmp_path / f"package-{name}-{depth}"
            compile_checkpoint(tmp_path / name, package, ExportOptions(dtype="float32", depths=(depth,)))
            vectors[name] = Encoder(open_package(package)).encode(sequences, layer_count=depth)
        compile_checkpoint(options.teacher, tmp_path / f"teacher-{depth}", ExportOptions(dtype="float32"))
        wanted = Encoder(open_package(tmp_path / f"teacher-{depth}")).encode(sequences)
        cosines = {name: float((rows * wanted).sum(axis=1).mean()) for name, rows in vectors.items()}
        assert cosines["deep"] > cosines["plain"] + 0.05


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_training_and_the_package_mean_the_same_by_a_depth(family: str, tmp_path: Path) -> None:
    from whit.export.distill.student import Student

    folder = write_checkpoint(tmp_path / "model", family, num_hidden_layers=LAYERS, dense_sizes=(24,))
    compile_checkpoint(folder, tmp_path / "package", ExportOptions(dtype="float32", depths=(1, 2)))
    sequences = [np.array([2, 70, 80, 3]), np.array([2, 90, 3])]
    student = Student(read_checkpoint(folder))
    with torch.no_grad():
        encoded = student.encode(sequences)
    for depth in (1, 2, 3):
        expected = Encoder(open_package(tmp_path / "package")).encode(sequences, layer_count=depth)
        assert np.allclose(student.vectors_after(encoded, depth).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("depths", [(0,), (LAYERS,), (2, 1), (1, 1)])
def test_depths_that_the_student_does_not_have(
    depths: tuple[int, ...], options: DistillOptions, tmp_path: Path
) -> None:
    from whit.export.distill.loop import distill

    with pytest.raises(CheckpointError, match=r"depths must be .* 1 to 2 of the student's 3, got"):
        distill(options.teacher.parent / "student", tmp_path / "out", replace(options, depths=depths))
