"""Distilling a tiny model: it learns, goes on after an interruption, and says what is wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.disk import full_disk
from tests.support.tiny import vocabulary, write_checkpoint
from whit.cli.app import run as whit
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.derive import read_steps
from whit.export.distill.options import DistillOptions
from whit.export.errors import CheckpointError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher, a student that is the teacher with noise, and texts."""
    folder = tmp_path_factory.mktemp("distill")
    write_checkpoint(folder / "teacher")
    write_checkpoint(folder / "wide", hidden_size=48, seed=3)
    write_checkpoint(folder / "student", seed=1)
    random = np.random.default_rng(0)
    words = [word for word in vocabulary() if word.isalpha() and len(word) > 1]
    lines = [" ".join(random.choice(words, random.integers(2, 9))) for _ in range(600)]
    (folder / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def options(place: Path, **changes: Any) -> DistillOptions:
    plain = DistillOptions(
        teacher=place / "teacher",
        texts=(place / "texts.txt",),
        cache=place / "cache",
        epochs=3,
        learning_rate=3e-3,
        batch_token_count=256,
        precision="float32",
        threads=1,
        save_every=3,
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"freeze": "words", "decay": "linear"},
        {"cosine_weight": 0.0, "l2_weight": 1.0, "similarity_weight": 0.0},
        {"hidden_weight": 0.1},
        {"dimension_counts": (8, 16)},
        {"topics": True},
        {"cosine_weight": 0.0, "passage_weight": 1.0, "similarity_weight": 0.0},
        {"similarity_loss": "margin"},
        {"similarity_loss": "kl"},
        {"precision": "bfloat16"},
    ],
)
def test_the_student_comes_nearer_to_the_teacher(changes: dict[str, Any], place: Path, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    report = distill(place / "student", tmp_path / "out", options(place, **changes))
    assert report.complete
    assert report.texts_seen == 3 * (600 - 75)
    assert report.cosine_after > report.cosine_before + 0.2
    assert report.cosine_after > 0.6
    assert read_steps(tmp_path / "out")[-1]["step"] == "distill"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]  # no state is left
    before, after = (read_checkpoint(folder).tensors for folder in (place / "student", tmp_path / "out"))
    words = "embeddings.word_embeddings.weight"
    assert np.array_equal(before[words], after[words]) == (changes.get("freeze") == "words")
    json.dumps(report.history)


def test_prefixes_get_better_when_they_are_asked_for(place: Path, tmp_path: Path) -> None:
    """The first 8 dimensions order texts more as the whole teacher does than they do without the Matryoshka loss."""
    from whit.export.distill.loop import distill
    from whit.export.distill.losses import Scores, prefix_loss
    from whit.export.distill.student import Student

    sequences = [np.array([2, *ids, 3]) for ids in np.random.default_rng(5).integers(60, 200, (40, 6))]
    errors = []
    for counts in ((), (8,)):
        distill(place / "student", tmp_path / "out", options(place, dimension_counts=counts))
        with torch.no_grad():
            student, teacher = (
                Student(read_checkpoint(folder)).encode(sequences).vectors
                for folder in (tmp_path / "out", place / "teacher")
            )
        assert read_checkpoint(tmp_path / "out").matryoshka_dimension_counts == counts
        errors.append(float(prefix_loss(student, Scores.of_vectors(teacher), [8])))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("topics", [False, True], ids=["shuffled", "topics"])
def test_a_killed_run_goes_on_and_ends_where_an_undisturbed_one_does(topics: bool, place: Path, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    chosen = options(place, topics=topics)

    def kill(stage: str, done: int, _total: int) -> None:
        if stage.startswith("distil") and done > 700:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(place / "student", tmp_path / "killed", chosen, kill)
    assert not (tmp_path / "killed").exists()
    resumed_at: list[int] = []

    def note(stage: str, done: int, _total: int) -> None:
        if stage.startswith("distil"):
            resumed_at.append(done)

    distill(place / "student", tmp_path / "killed", chosen, note)
    assert resumed_at[0] > 300  # not from the beginning
    distill(place / "student", tmp_path / "whole", chosen)
    killed, whole = (read_checkpoint(tmp_path / name).tensors for name in ("killed", "whole"))
    assert all(np.array_equal(killed[name], whole[name]) for name in whole)


def test_a_run_is_not_continued_with_other_options(place: Path, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    def kill(stage: str, done: int, _total: int) -> None:
        if stage.startswith("distil") and done > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(place / "student", tmp_path / "out", options(place), kill)
    with pytest.raises(CheckpointError, match=r"out.training belongs to a run with learning_rate 0.003, not 0.001"):
        distill(place / "student", tmp_path / "out", options(place, learning_rate=1e-3))
    (tmp_path / "out.training").write_bytes(b"no state")
    with pytest.raises(CheckpointError, match=r"out.training is no state of a run; remove it"):
        distill(place / "student", tmp_path / "out", options(place))


def test_time_can_be_over_before_the_texts(place: Path, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    report = distill(place / "student", tmp_path / "out", options(place, epochs=10_000, max_minutes=0.005))
    assert not report.complete
    assert 0 < report.texts_seen < 10_000 * 525
    assert read_checkpoint(tmp_path / "out")


@pytest.mark.parametrize(("projection", "count"), [("pca", 32), ("learned", 48)])
def test_a_teacher_of_another_width(projection: str, count: int, place: Path, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    chosen = options(place, teacher=place / "wide", projection=projection, epochs=6, similarity_weight=0.0)
    report = distill(place / "student", tmp_path / "out", chosen)
    if projection == "pca":  # turned towards the student, the teacher is near from the start
        assert report.cosine_before > 0.8
        assert report.cosine_after > report.cosine_before + 0.01
    else:
        assert report.cosine_after > report.cosine_before + 0.5
    compiled = compile_checkpoint(tmp_path / "out", tmp_path / "package", ExportOptions(dtype="float32"))
    manifest = json.loads((tmp_path / "package" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["dimension_count"] == count
    assert compiled.name == "out"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": Path("nowhere")}, "nowhere is not a folder"),
        ({"texts": (Path("nothing.txt"),)}, "nothing.txt cannot be read"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"max_token_count": 2}, "max_token_count must be more than 2, .* got 2"),
        ({"dimension_counts": (32,)}, "dimension_counts must be 1 to 31"),
        ({"hidden_weight": 1.0, "hidden_layers": (0,)}, "hidden_layers must name 2 of the teacher's layers 0 to 1"),
    ],
)
def test_what_cannot_be_used_is_named(changes: dict[str, Any], message: str, place: Path, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    with pytest.raises(CheckpointError, match=message):
        distill(place / "student", tmp_path / "out", options(place, **changes))


def test_a_bare_folder_gets_a_dense_too(place: Path, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    source = write_checkpoint(tmp_path / "bare", pooling=None)
    distill(source, tmp_path / "out", options(place, teacher=place / "wide", projection="learned", epochs=1))

    found = read_checkpoint(tmp_path / "out")
    assert (found.pooling, found.normalize, found.dense[0].weight.shape) == ("mean", True, (32, 48))


def test_the_same_weights_pooled_otherwise_are_another_teacher(place: Path, tmp_path: Path) -> None:
    from whit.export.distill.teacher import open_teacher

    fingerprints = set()
    for pooling in ("mean", "cls"):
        folder = write_checkpoint(tmp_path / pooling, pooling=pooling)
        package = open_teacher(folder, tmp_path / "cache", "float32", lambda *_: None)
        assert package.manifest.pooling == pooling
        fingerprints.add(package.manifest.fingerprint)
    assert len(fingerprints) == 2


def test_a_disk_that_is_full(place: Path, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    compile_checkpoint(place / "teacher", tmp_path / "teacher", ExportOptions(dtype="float32"))
    chosen = options(place, teacher=tmp_path / "teacher", save_every=1)
    with (
        full_disk(),
        pytest.raises(CheckpointError, match=r"out.training cannot be written \(the disk is full\); free"),
    ):
        distill(place / "student", tmp_path / "out", chosen)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_a_teacher_for_which_there_is_no_room(place: Path, tmp_path: Path) -> None:
    from whit.export.distill.teacher import open_teacher

    with full_disk(), pytest.raises(CheckpointError, match="the disk is full; free space or choose another --cache"):
        open_teacher(place / "teacher", tmp_path / "cache", "float32", lambda *_: None)


def test_a_second_run_with_the_same_out_is_refused_and_the_first_goes_on(place: Path, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    refused = []

    def begin_another(*_: object) -> None:
        if not refused:
            with pytest.raises(CheckpointError, match=r"another run is writing .*out.training; wait") as caught:
                distill(place / "student", tmp_path / "out", options(place))
            refused.append(caught)

    assert distill(place / "student", tmp_path / "out", options(place), begin_another).complete
    assert refused
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_an_interruption_costs_is_bounded_in_time(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whit.export.distill import loop

    monkeypatch.setattr(loop, "_LONGEST_UNSAVED", 0.0)
    saved: list[int] = []
    monkeypatch.setattr(loop.StateFile, "save", lambda _self, position, _content: saved.append(position.steps))

    report = loop.distill(place / "student", tmp_path / "out", options(place, save_every=1_000_000))

    assert saved == [*range(1, report.steps + 1)]


def test_a_folder_of_somebody_else_is_refused_before_training(place: Path, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(CheckpointError, match="was not made by whit"):
        distill(place / "student", tmp_path, options(place), lambda *_: pytest.fail("it began"))


def test_a_loss_that_is_no_number_ends_the_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from whit.export.distill import losses
    from whit.export.distill.loop import distill

    monkeypatch.setattr(losses, "cosine_loss", lambda student, _teacher: student.sum() * float("nan"))
    with pytest.raises(CheckpointError, match=r"the loss is nan after 1 steps; .* lower --learning-rate"):
        distill(place / "student", tmp_path / "out", options(place))


def test_few_texts_are_refused(place: Path, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    (tmp_path / "few.txt").write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="has 2 texts; give at least 16"):
        distill(place / "student", tmp_path / "out", options(place, texts=(tmp_path / "few.txt",)))


def test_hidden_states_need_a_teacher_that_has_them(place: Path, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    compile_checkpoint(place / "teacher", tmp_path / "package", ExportOptions(dtype="float32"))
    with pytest.raises(CheckpointError, match=r"which the package .* does not give"):
        distill(place / "student", tmp_path / "out", options(place, teacher=tmp_path / "package", hidden_weight=1.0))
    with pytest.raises(CheckpointError, match="32 wide in the student and 48 in the teacher"):
        distill(place / "student", tmp_path / "out", options(place, teacher=place / "wide", hidden_weight=1.0))


def test_the_command(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["distill", str(place / "student"), "--teacher", str(place / "teacher")]
    command += ["--texts", str(place / "texts.txt"), "--cache", str(place / "cache"), "--threads", "1"]
    command += ["--learning-rate", "0.003", "--batch-token-count", "256"]
    assert whit([*command, "--out", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cosine_after"] > report["cosine_before"]
    assert whit([*command, "--out", str(tmp_path / "other")]) == 0
    assert "cosine to the teacher" in capsys.readouterr().out
    assert whit([*command, "--out", str(tmp_path / "third"), "--epochs", "0"]) == 2
    assert "epochs must be at least 1" in capsys.readouterr().err
    assert whit([*command, "--out", str(tmp_path / "third"), "--dimension-counts", "8,x"]) == 2
    assert "whole numbers separated by commas" in capsys.readouterr().err
