"""The student in torch is the model that whit compiles; the losses are what they say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny import FAMILIES, write_checkpoint
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.runtime.encoder import Encoder
from whit.runtime.package import open_package
from whit.runtime.tokenizer import Tokenizer

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.train

TEXTS = ["one", "the house of the long river", "a day in the life of a very small city and its school", "to be"]


def compiled_vectors(folder: Path, out: Path) -> tuple[list[Any], np.ndarray[Any, Any]]:
    compile_checkpoint(folder, out, ExportOptions(dtype="float32"))
    package = open_package(out)
    sequences = Tokenizer(package).encode(TEXTS)
    return sequences, Encoder(package).encode(sequences)


def test_a_teacher_in_torch_gives_the_vectors_of_its_package(tmp_path: Path) -> None:
    from whit.export.distill.torch_teacher import TorchTeacher

    folder = write_checkpoint(tmp_path / "model", "mpnet")
    teacher = TorchTeacher(folder, torch.device("cpu"))
    _, expected = compiled_vectors(folder, tmp_path / "package")
    assert np.allclose(teacher.encode(TEXTS, teacher.max_token_count), expected, atol=1e-5)
    cut = teacher.encode(TEXTS, 4)
    assert np.allclose(cut[0], expected[0], atol=1e-5)
    assert not np.allclose(cut[2], expected[2], atol=1e-3)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        *((family, {}) for family in FAMILIES),
        ("bert", {"pooling": "cls", "normalize": False}),
        ("bert", {"pooling": "max", "hidden_act": "gelu_new"}),
        ("distilbert", {"dense_sizes": (24, 16)}),
        ("bert", {"pooling": "weighted_mean"}),
        ("bert", {"pooling": "pooler", "dense_sizes": (8,)}),
        ("mpnet", {"pooling": "first_last"}),
        ("roberta", {"pooling": "cls+weighted_mean"}),
        ("bert", {"pooling": "max+mean", "dense_sizes": (24,)}),
        ("electra", {"pooling": "mean_sqrt_len", "normalize": False}),
    ],
)
def test_the_student_computes_what_the_package_does(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    from whit.export.distill.student import Student

    folder = write_checkpoint(tmp_path / "model", family, **settings)
    sequences, expected = compiled_vectors(folder, tmp_path / "package")
    student = Student(read_checkpoint(folder))
    with torch.no_grad():
        encoded = student.encode(sequences)
    assert np.allclose(encoded.vectors.numpy(), expected, atol=1e-5)
    assert student.dimension_count == expected.shape[1]
    assert len(encoded.hidden) == student.layer_count == 2


def test_layers_of_unequal_widths_are_computed(tmp_path: Path) -> None:
    from whit.export.derive import derive_checkpoint
    from whit.export.distill.student import Student

    source = write_checkpoint(tmp_path / "source")
    tensors = dict(read_checkpoint(source).tensors)
    at = "encoder.layer.1"
    for part in ("query", "key", "value"):  # one head of four and half of the inner neurons fewer
        name = f"{at}.attention.self.{part}"
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = (
            tensors[f"{name}.weight"][:24],
            tensors[f"{name}.bias"][:24],
        )
    tensors[f"{at}.attention.output.dense.weight"] = tensors[f"{at}.attention.output.dense.weight"][:, :24]
    tensors[f"{at}.intermediate.dense.weight"] = tensors[f"{at}.intermediate.dense.weight"][:32]
    tensors[f"{at}.intermediate.dense.bias"] = tensors[f"{at}.intermediate.dense.bias"][:32]
    tensors[f"{at}.output.dense.weight"] = tensors[f"{at}.output.dense.weight"][:, :32]
    derive_checkpoint(source, tmp_path / "pruned", tensors=tensors, step={"step": "test"})

    sequences, expected = compiled_vectors(tmp_path / "pruned", tmp_path / "package")
    with torch.no_grad():
        vectors = Student(read_checkpoint(tmp_path / "pruned")).encode(sequences).vectors.numpy()
    assert np.allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize(("freeze", "missing"), [("none", ()), ("words", ("word_",)), ("embeddings", ("embeddings",))])
def test_what_is_frozen_gets_no_gradient(freeze: str, missing: tuple[str, ...], tmp_path: Path) -> None:
    from whit.export.distill.student import Student

    student = Student(read_checkpoint(write_checkpoint(tmp_path / "model")))
    trained = student.trainable(freeze)
    student.encode([np.array([2, 50, 60, 3])]).vectors.sum().backward()
    assert all(tensor.grad is not None for tensor in trained.values())
    left = {name for name in student.tensors if name not in trained}
    assert all(any(part in name for part in missing) for name in left)
    assert bool(left) == (freeze != "none")


def test_losses_by_hand() -> None:
    from whit.export.distill import losses

    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    b = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert losses.cosine_loss(a, b).item() == pytest.approx((0 + 1) / 2)
    assert losses.l2_loss(a, b).item() == pytest.approx((0 + 13) / 2)
    theirs = losses.Scores.of_vectors(b)
    # The two texts are at a right angle for the student and the same for the teacher.
    assert losses.similarity_loss(a, theirs).item() == pytest.approx(1)
    assert losses.similarity_loss(
        a, losses.Scores.of_vectors(torch.nn.functional.pad(a, (0, 3)))
    ).item() == pytest.approx(0)
    assert losses.similarity_loss(a[:1], losses.Scores.of_vectors(b[:1])).item() == 0
    # Cut to one dimension the two texts of c are the same, as they are for the teacher.
    c = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert losses.prefix_loss(c, theirs, [1]).item() == pytest.approx(0)
    assert losses.prefix_loss(c, theirs, [1, 2]).item() == pytest.approx((1 - 0.5**0.5) ** 2 / 2)
    hidden = torch.zeros(1, 2, 4)
    other = torch.tensor([1.0, 5.0]).view(1, 2, 1).expand(1, 2, 4)
    assert losses.hidden_loss(hidden, other, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(1)
