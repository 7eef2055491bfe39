"""What teachers say of pairs of texts: MaxSim, cross-encoders, candidates, scales; and students that learn it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny import config_of, vocabulary, write_checkpoint
from whit.cli.app import run as whit
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.distill.options import DistillOptions
from whit.export.errors import CheckpointError
from whit.export.evaluate.model import Model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.train

DEVICE = torch.device("cpu")
TEXTS = 64  # so few that what a judge says of their pairs can be learned by heart in a second


def sentences(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    words = [word for word in vocabulary() if word.isalpha() and len(word) > 1]
    return [" ".join(random.choice(words, random.integers(2, 9))) for _ in range(count)]


def write_cross_encoder(folder: Path, **changes: Any) -> Path:
    """A cross-encoder with random weights, as transformers saves one; its scores are far from the scale of cosines."""
    write_checkpoint(folder, pooling=None)
    torch.manual_seed(11)
    settings = {name: value for name, value in config_of("bert").items() if name != "model_type"}
    config = transformers.BertConfig(**settings, num_labels=changes.pop("num_labels", 1), **changes)
    model = transformers.BertForSequenceClassification(config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "LayerNorm" not in name:
                tensor.normal_(0, 0.3)
        model.classifier.bias.fill_(7.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> DistillOptions:
    """A run towards a teacher of two layers, whose folder also has the ``student`` that it starts from, and a ``cross``."""
    folder = tmp_path_factory.mktemp("judges")
    write_checkpoint(folder / "teacher")
    write_checkpoint(folder / "student", seed=1)
    write_cross_encoder(folder / "cross")
    (folder / "texts.txt").write_text("\n".join(sentences(TEXTS, seed=0)) + "\n", encoding="utf-8")
    return DistillOptions(
        teacher=folder / "teacher",
        texts=(folder / "texts.txt",),
        cache=folder / "cache",
        epochs=30,
        learning_rate=3e-3,
        batch_token_count=256,
        precision="float32",
        threads=1,
        cosine_weight=0.0,
    )


def loss_of(folder: Path, options: DistillOptions) -> float:
    """What is left to learn: the loss of a checkpoint over all texts of a run."""
    from whit.export.distill.objective import Lesson, Objective
    from whit.export.distill.student import Student

    texts = options.texts[0].read_text(encoding="utf-8").splitlines()
    compile_checkpoint(options.teacher, folder.parent / "package", ExportOptions(dtype="float32"))
    vectors = Model(folder.parent / "package", threads=1).embed(texts)
    checkpoint = read_checkpoint(folder)
    student = Student(checkpoint)
    lesson = Lesson(texts, [np.array(e.ids, np.int64) for e in checkpoint.tokenizer.encode_batch(texts)], vectors)
    objective = Objective(options, student, DEVICE)
    objective.fit_scale(lesson)
    with torch.no_grad():
        return float(objective(student.encode(lesson.sequences), objective.aims(lesson)))


def test_maxsim_by_hand() -> None:
    from whit.export.distill.losses import maxsim

    right, up, between = [2.0, 0.0], [0.0, 3.0], [1.0, 1.0]
    tokens = torch.tensor([[right, up, up], [right, between, right], [up, right, up]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    half = 0.5**0.5
    # Texts: {right, up}, {right, between}, {up}; what lies under a 0 of the mask is not seen.
    expected = torch.tensor(
        [
            [1.0, ((1 + half) + (1 + half)) / 4, (0.5 + 1) / 2],
            [((1 + half) + (1 + half)) / 4, 1.0, (half / 2 + half) / 2],
            [(0.5 + 1) / 2, (half / 2 + half) / 2, 1.0],
        ]
    )
    assert torch.allclose(maxsim(tokens, mask), expected, atol=1e-6)


def test_losses_of_scores_by_hand() -> None:
    from whit.export.distill.losses import TEMPERATURE, Scores, passage_loss, similarity_loss

    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])  # cosines 0.6, 0.0, 0.8
    everyone = ~torch.eye(3, dtype=torch.bool)
    own = Scores.of_vectors(vectors)
    for kind in ("squared", "margin", "kl"):
        assert similarity_loss(vectors, own, kind).item() == pytest.approx(0, abs=1e-9)
    shifted = Scores(own.values + 0.3, everyone)  # no pair is more alike than another, compared with before
    assert similarity_loss(vectors, shifted).item() == pytest.approx(0.09)
    assert similarity_loss(vectors, shifted, "margin").item() == pytest.approx(0, abs=1e-9)
    assert similarity_loss(vectors, shifted, "kl").item() == pytest.approx(0, abs=1e-9)
    row = Scores(own.values + torch.tensor([[0, 0.1, -0.1], [0, 0, 0], [0, 0, 0]]), everyone)
    assert similarity_loss(vectors, row, "margin").item() == pytest.approx(0.02 / 6)
    ours, theirs = (torch.log_softmax(torch.tensor(v) / TEMPERATURE, 0) for v in ([0.6, 0.0], [0.7, -0.1]))
    divergence = 2 * TEMPERATURE**2 * (theirs.exp() * (theirs - ours)).sum() / 3
    assert similarity_loss(vectors, row, "kl").item() == pytest.approx(divergence.item(), rel=1e-3)
    one = Scores(own.values + 1, torch.tensor([[False, True, False], [False] * 3, [False] * 3]))
    assert similarity_loss(vectors, one).item() == pytest.approx(1)
    assert similarity_loss(vectors, one, "kl").item() == 0  # a single pair cannot be nearer than another

    lost = torch.tensor([[-1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    assert passage_loss(lost, vectors).item() == pytest.approx((0.6 + 1) / 3, abs=0.01)
    assert passage_loss(vectors, vectors).item() < 0.01
    assert passage_loss(vectors[:1], vectors[:1]).item() == 0


def test_losses_have_finite_gradients_where_pairs_are_few() -> None:
    from whit.export.distill.losses import Scores, similarity_loss

    known = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    for kind in ("squared", "margin", "kl"):
        vectors = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        similarity_loss(vectors, Scores(torch.full((4, 4), 0.2), known), kind).backward()
        assert vectors.grad is not None
        assert torch.isfinite(vectors.grad).all()
        assert vectors.grad.abs().sum() > 0


@pytest.mark.parametrize(("texts", "count", "found"), [(1, 4, 0), (2, 4, 1), (5, 4, 4), (30, 4, 4), (30, 8, 8)])
def test_candidates_go_from_the_nearest_to_the_farthest(texts: int, count: int, found: int) -> None:
    from whit.export.distill.judges import chosen_pairs
    from whit.export.distill.losses import cosine_matrix

    cosines = cosine_matrix(torch.randn(texts, 16, generator=torch.Generator().manual_seed(0)))
    known = chosen_pairs(cosines, count)
    assert known.sum(dim=1).tolist() == [found] * texts
    assert not known.diagonal().any()
    others = cosines.masked_fill(torch.eye(texts, dtype=torch.bool), -2)
    if texts > 1:
        assert known[torch.arange(texts), others.argmax(dim=1)].all()
    if texts > 2:
        assert known[torch.arange(texts), cosines.argmin(dim=1)].all()


def test_maxsim_is_that_of_the_tokens_that_transformers_computes(options: DistillOptions) -> None:
    from whit.export.distill.judges import TokenJudge

    texts = sentences(5, seed=3)
    scores = TokenJudge(options.teacher, DEVICE, 64).scores(texts, torch.zeros(5, 5))
    model = transformers.AutoModel.from_pretrained(options.teacher).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.teacher)
    with torch.no_grad():
        tokens = [
            torch.nn.functional.normalize(model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0, 1:-1], dim=1)
            for t in texts
        ]
    for i, first in enumerate(tokens):
        for j, second in enumerate(tokens):
            products = first @ second.T
            wanted = (products.amax(dim=1).mean() + products.amax(dim=0).mean()) / 2
            assert scores.values[i, j].item() == pytest.approx(wanted.item(), abs=1e-5)


def test_scores_are_those_of_sentence_transformers(options: DistillOptions) -> None:
    from whit.export.distill.judges import CrossEncoder

    reference = pytest.importorskip("sentence_transformers").CrossEncoder
    folder = options.teacher.parent / "cross"
    first, second = sentences(40, seed=5), sentences(40, seed=6)
    wanted = reference(str(folder), device="cpu", activation_fn=torch.nn.Identity()).predict(
        list(zip(first, second, strict=True)), show_progress_bar=False
    )
    found = CrossEncoder(folder, DEVICE, 64, candidates=4).pair_scores(first, second)
    assert np.allclose(found.numpy(), wanted, atol=1e-5)
    assert np.ptp(wanted) > 0.1  # different pairs do have different scores


@pytest.fixture(scope="module")
def plain(options: DistillOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student that learned the cosines of the teacher's vectors, of the same texts in the same order."""
    from whit.export.distill.loop import distill

    out = tmp_path_factory.mktemp("plain") / "out"
    distill(options.teacher.parent / "student", out, options)
    return out


@pytest.mark.parametrize("kind", ["squared", "margin", "kl"])
@pytest.mark.parametrize("judge", ["maxsim", "cross_encoder"])
def test_the_student_learns_what_its_judge_says(
    judge: str, kind: str, options: DistillOptions, plain: Path, tmp_path: Path
) -> None:
    from whit.export.distill.loop import distill

    value = True if judge == "maxsim" else options.teacher.parent / "cross"
    asked = replace(options, similarity_loss=kind, candidates=8, **{judge: value})
    distill(options.teacher.parent / "student", tmp_path / "out", asked)
    assert loss_of(tmp_path / "out", asked) < 0.9 * loss_of(plain, asked)


def test_a_run_is_not_continued_with_another_judge(options: DistillOptions, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    def kill(stage: str, done: int, _total: int) -> None:
        if stage.startswith("distil") and done > 200:
            raise KeyboardInterrupt

    judged = replace(options, cross_encoder=options.teacher.parent / "cross", save_every=1)
    student = options.teacher.parent / "student"
    with pytest.raises(KeyboardInterrupt):
        distill(student, tmp_path / "killed", judged, kill)
    with pytest.raises(CheckpointError, match=r"killed.training belongs to a run with judge 'cross-encoder [0-9a-f]+'"):
        distill(student, tmp_path / "killed", replace(judged, cross_encoder=None))
    distill(student, tmp_path / "killed", judged)
    distill(student, tmp_path / "whole", judged)
    killed, whole = (read_checkpoint(tmp_path / name).tensors for name in ("killed", "whole"))
    assert all(np.array_equal(killed[name], whole[name]) for name in whole)


def test_what_is_no_cross_encoder_is_refused(options: DistillOptions, tmp_path: Path) -> None:
    from whit.export.distill.judges import CrossEncoder

    def refused(folder: Path, message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            CrossEncoder(folder, DEVICE, 64, 4)

    refused(tmp_path, "has no config.json; give the folder of a saved cross-encoder")
    refused(options.teacher, "lacks 'bert.pooler.dense.bias'; give a model that was trained to score pairs")
    refused(write_cross_encoder(tmp_path / "three", num_labels=3), "gives 3 numbers for a pair; give one that gives 1")
    broken = write_cross_encoder(tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    refused(broken, r"broken cannot be read \(.*\); give a folder with safetensors")


def test_scores_that_say_nothing_are_refused(options: DistillOptions, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    dull = write_cross_encoder(tmp_path / "dull")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(dull)
    with torch.no_grad():
        model.classifier.weight.zero_()
    model.save_pretrained(dull)
    with pytest.raises(CheckpointError, match="the scores of pairs of texts are all the same"):
        distill(options.teacher.parent / "student", tmp_path / "out", replace(options, cross_encoder=dull))


def test_maxsim_needs_tokens(options: DistillOptions, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    compile_checkpoint(options.teacher, tmp_path / "package", ExportOptions(dtype="float32"))
    asked = replace(options, teacher=tmp_path / "package", maxsim=True)
    with pytest.raises(
        CheckpointError, match=r"maxsim needs the teacher's token vectors, which the package .* does not"
    ):
        distill(options.teacher.parent / "student", tmp_path / "out", asked)


def test_pairs_teach_what_the_target_means(options: DistillOptions, tmp_path: Path) -> None:
    """A text is a name of two words, its target what the name stands for: no teacher could know that from the name."""
    from whit.export.distill.loop import distill

    random = np.random.default_rng(2)
    words = [word for word in vocabulary() if word.isalpha() and len(word) > 2]
    meaning = {word: " ".join(random.choice(words, 3)) for word in words[:24]}
    names = [(a, b) for a in meaning for b in meaning if a != b]
    random.shuffle(names)
    lines = [f"{a} {b}\t{meaning[a]} {meaning[b]}" for a, b in names]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines[40:]) + "\n", encoding="utf-8")
    asked = replace(options, texts=(), pairs=(tmp_path / "pairs.tsv",), cosine_weight=1.0, epochs=10)
    report = distill(options.teacher, tmp_path / "out", asked)  # the teacher itself learns what names mean

    compile_checkpoint(tmp_path / "out", tmp_path / "student", ExportOptions(dtype="float32"))
    compile_checkpoint(options.teacher, tmp_path / "teacher", ExportOptions(dtype="float32"))
    student, teacher = (Model(tmp_path / name, threads=1) for name in ("student", "teacher"))
    held, targets = zip(*(line.split("\t") for line in lines[:40]), strict=True)
    wanted = teacher.embed(targets)
    taught, untaught = ((model.embed(held) * wanted).sum(axis=1).mean() for model in (student, teacher))
    assert 1 - taught < 0.5 * (1 - untaught)
    assert report.cosine_after > report.cosine_before + 0.1


def test_pairs_and_texts_are_read_side_by_side(options: DistillOptions, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    (tmp_path / "pairs.tsv").write_text("the boy\tthe young man\n" * 20, encoding="utf-8")
    report = distill(
        options.teacher.parent / "student",
        tmp_path / "out",
        replace(options, pairs=(tmp_path / "pairs.tsv",), epochs=1, cosine_weight=1.0),
    )
    assert report.texts == TEXTS + 20
    for line in ("a text\n", "a text\t\n", "a\tb\tc\n"):
        (tmp_path / "pairs.tsv").write_text("a\tb\n" + line, encoding="utf-8")
        with pytest.raises(
            CheckpointError, match=r"pairs.tsv: pair 2 has \d fields; give two texts with a tab between"
        ):
            distill(options.teacher, tmp_path / "other", replace(options, pairs=(tmp_path / "pairs.tsv",)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"similarity_loss": "mse"}, "similarity_loss must be one of squared, margin, kl, got mse"),
        ({"candidates": 1}, "candidates must be at least 2, got 1"),
        ({"passage_weight": -1.0}, "passage_weight must be 0 or more"),
        ({"maxsim": True, "cross_encoder": Path("a")}, "maxsim and cross_encoder exclude each other: give one of them"),
        ({"maxsim": True, "similarity_weight": 0.0, "l2_weight": 1.0}, "similarity_weight must be above 0 with maxsim"),
        ({"pairs": (Path("p"),), "hidden_weight": 1.0}, "pairs and hidden_weight exclude each other"),
    ],
)
def test_bad_options_are_named(changes: dict[str, Any], message: str, options: DistillOptions) -> None:
    with pytest.raises(CheckpointError, match=message):
        replace(options, **changes).check()


def test_the_command_and_the_recipe_know_them(options: DistillOptions, tmp_path: Path, capsys: Any) -> None:
    from whit.export.recipe import read_recipe

    folder = options.teacher.parent
    command = [
        "distill",
        str(folder / "student"),
        "--teacher",
        str(options.teacher),
        "--texts",
        str(folder / "texts.txt"),
    ]
    command += ["--cross-encoder", str(folder / "cross"), "--candidates", "3", "--similarity-loss", "margin"]
    command += ["--cache", str(folder / "cache"), "--threads", "1", "--passage-weight", "0.5", "--json"]
    assert whit([*command, "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["complete"]
    (tmp_path / "r.toml").write_text(
        'checkpoint = "student"\n[[step]]\nstep = "distill"\nteacher = "teacher"\npairs = ["p.tsv"]\nmaxsim = true\n'
        'similarity_loss = "kl"\n',
        encoding="utf-8",
    )
    (stage,) = read_recipe(tmp_path / "r.toml").stages
    assert stage.options.maxsim
    assert stage.options.pairs == (tmp_path / "p.tsv",)
