"""Recipes: read with errors that say where, run once each, gone on with after an interruption, reported in one page."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.tiny import edit_json, write_checkpoint
from whit.cli.app import run
from whit.contract.manifest import read_manifest
from whit.export.errors import CheckpointError
from whit.export.evaluate import EvaluationError
from whit.export.recipe import RecipeError, read_recipe, run_recipe

SENTENCES = [
    f"the {a} found a {b} near the {c}"
    for a in ("boy", "girl", "man")
    for b in ("book", "car")
    for c in ("sea", "city")
]

SHIPPED = Path(__file__).parents[2] / "export" / "recipes"

RECIPE = """
checkpoint = "model"
sts = "pairs.tsv"

[[step]]
step = "trim"
corpus = "corpus.txt"

[[step]]
step = "drop-layers"
keep = [0]

[export]
dtype = "float32"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "model")
    (tmp_path / "corpus.txt").write_text("\n".join(SENTENCES))
    rows = [f"{i % 6}\t{a}\t{b}" for i, (a, b) in enumerate(zip(SENTENCES, SENTENCES[::-1], strict=True))]
    (tmp_path / "pairs.tsv").write_text("\n".join(["score\tsentence1\tsentence2", *rows]) + "\n")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def test_a_recipe_that_says_nothing_to_do_is_refused(folder: Path) -> None:
    """It ran an export with the defaults, which nobody had asked for."""
    refuses(folder, 'checkpoint = "model"\n', "says nothing to do", "[[step]]", "[export] or [static]")
    (folder / "recipe.toml").write_text("# to be written\n")
    with pytest.raises(RecipeError, match="says nothing to do"):
        read_recipe(folder / "recipe.toml", folder / "model")

    (folder / "recipe.toml").write_text("[export]\n")
    assert read_recipe(folder / "recipe.toml", folder / "model").stages == ()


def refuses(folder: Path, text: str, *words: str) -> None:
    (folder / "recipe.toml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_recipe(folder / "recipe.toml")
    for word in ("recipe.toml", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            'corpus = "corpus.txt"',
            'corpsu = "corpus.txt"',
            ("[[step]] number 1 (trim)", "'corpsu'", "did you mean 'corpus'"),
        ),
        ('step = "drop-layers"', 'step = "drop-layer"', ("[[step]] number 2", "did you mean 'drop-layers'")),
        ('step = "trim"', "", ("[[step]] number 1", "got ''")),
        ("keep = [0]", "keep = 0", ("(drop-layers): keep must be a list, each a whole number, got 0",)),
        ("keep = [0]", 'keep = ["a"]', ("keep must be a whole number, got 'a'",)),
        ("keep = [0]", "keep = [true]", ("keep must be a whole number, got True",)),
        ('dtype = "float32"', "dtype = 32", ("[export]: dtype must be text, got 32",)),
        ('dtype = "float32"', "max_los = 1", ("[export]: unknown key 'max_los'", "did you mean 'max_loss'")),
        ("[export]", "[exprot]", ("the top of the file: unknown key 'exprot'", "did you mean 'export'")),
        ('checkpoint = "model"', "", ("no checkpoint", "on the command line")),
        ("keep = [0]", "keep = [0", ("not valid TOML", "line")),
        (
            '"corpus.txt"',
            '"$NO_SUCH_VARIABLE/corpus.txt"',
            ("corpus: the environment variable NO_SUCH_VARIABLE is not set",),
        ),
        ('step = "trim"', 'step = "distill"\ntexts = ["corpus.txt"]', ("unknown key 'corpus'",)),
    ],
)
def test_a_mistake_is_said_with_its_place(folder: Path, before: str, after: str, words: tuple[str, ...]) -> None:
    refuses(folder, RECIPE.replace(before, after), *words)


def test_a_key_that_must_be_there(folder: Path) -> None:
    text = 'checkpoint = "model"\n[[step]]\nstep = "distill"\ntexts = ["corpus.txt"]\n'
    refuses(folder, text, "number 1 (distill) lacks the key 'teacher'")


def test_paths_are_relative_to_the_file_and_may_name_variables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTS", str(folder))
    monkeypatch.setenv("NEAR", "near.txt")  # from where the command is run
    text = 'checkpoint = "model"\n[[step]]\nstep = "distill"\nteacher = "$CHECKPOINT"\ntexts = ["${TEXTS}/corpus.txt", "b.txt", "$NEAR"]\n'
    (folder / "recipe.toml").write_text(text + "learning_rate = 1\n")

    recipe = read_recipe(folder / "recipe.toml")

    options = recipe.stages[0].options
    assert recipe.checkpoint == folder / "model"
    assert options.teacher == (folder / "model").resolve()
    assert options.texts == (folder / "corpus.txt", folder / "b.txt", Path.cwd() / "near.txt")
    assert options.learning_rate == 1.0
    assert read_recipe(folder / "recipe.toml", Path("other")).checkpoint == Path("other")


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.toml")), ids=lambda file: file.stem)
def test_the_recipes_that_ship_can_be_read(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPUS", str(tmp_path / "corpus.txt"))
    monkeypatch.setenv("SENTENCES", str(tmp_path / "sentences.txt"))
    monkeypatch.setenv("PASSAGES", str(tmp_path / "passages.txt"))
    monkeypatch.setenv("TEACHER", str(tmp_path / "teacher"))
    monkeypatch.setenv("CALIBRATION", str(tmp_path / "calibration.txt"))
    monkeypatch.setenv("PROSE", str(tmp_path / "prose.txt"))
    monkeypatch.setenv("WORDS", str(tmp_path / "words.txt"))

    recipe = read_recipe(file, tmp_path)

    assert f"--recipe export/recipes/{file.name}" in file.read_text(encoding="utf-8")
    assert recipe.stages or file.stem.startswith("static")


class Tags(HTMLParser):
    """Counts start tags, and collects whatever an attribute would load."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "data")]


def test_a_recipe_runs_its_steps_and_reports_what_each_did(folder: Path) -> None:
    report = run_recipe(read_recipe(folder / "recipe.toml"), folder / "out", folder / "work")

    source, trimmed, dropped, package = report.points
    assert [point.name for point in report.points] == ["model", "trim", "drop-layers", "package (float32)"]
    assert source.agreement == pytest.approx(100)
    assert trimmed.size_bytes < source.size_bytes
    assert dropped.size_bytes < trimmed.size_bytes
    assert dropped.agreement < 99.9
    assert package.agreement == dropped.agreement
    assert all(point.sts is not None for point in report.points)
    assert read_manifest(folder / "out").vocabulary_size == report.steps[0].report["token_count"]
    written = json.loads((folder / "work" / "report.json").read_text())
    assert [step["step"] for step in written["steps"]] == ["trim", "drop-layers"]
    html = (folder / "work" / "report.html").read_text()
    tags = Tags()
    tags.feed(html)
    assert tags.counts["svg"] == 4
    assert tags.loads == []
    assert not re.search(r"https?://|url\(|@import", html)


def test_nothing_is_run_twice_and_a_change_runs_what_depends_on_it(folder: Path) -> None:
    def ran() -> list[bool]:
        return [
            step.ran for step in run_recipe(read_recipe(folder / "recipe.toml"), folder / "out", folder / "work").steps
        ]

    assert ran() == [True, True]
    assert ran() == [False, False]
    (folder / "recipe.toml").write_text(RECIPE.replace("keep = [0]", "keep = [1]"))
    assert ran() == [False, True]
    (folder / "corpus.txt").write_text("\n".join([*SENTENCES, "water and people"]))
    assert ran() == [True, True]
    write_checkpoint(folder / "model", seed=1)
    assert ran() == [True, True]


def test_recipes_that_begin_alike_and_run_at_once_do_the_common_steps_once(folder: Path) -> None:
    """With one work folder: the second waits for a step of the first, and takes what it made."""
    (folder / "other.toml").write_text(RECIPE.replace("keep = [0]", "keep = [1]"))
    names, start = ("recipe", "other"), threading.Barrier(2)

    def run_at_once(name: str) -> list[bool]:
        start.wait()
        recipe = read_recipe(folder / f"{name}.toml")
        return [step.ran for step in run_recipe(recipe, folder / f"package-{name}", folder / "work").steps]

    with ThreadPoolExecutor(2) as pool:
        ran = list(pool.map(run_at_once, names))

    assert sorted(ran) == [[False, True], [True, True]]
    assert {path.name[0] for path in (folder / "work").iterdir()} == {"0", "r"}  # steps and report, no lock
    json.loads((folder / "work" / "report.json").read_text())


def test_folders_of_a_checkpoint_that_are_links_count(folder: Path) -> None:
    def ran() -> list[bool]:
        return [
            step.ran for step in run_recipe(read_recipe(folder / "recipe.toml"), folder / "out", folder / "work").steps
        ]

    (folder / "model" / "1_Pooling").rename(folder / "pooling")
    (folder / "model" / "1_Pooling").symlink_to(folder / "pooling")
    assert ran() == [True, True]
    edit_json(folder / "pooling" / "config.json", pooling_mode="max")
    assert ran() == [True, True]


def test_an_interrupted_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupted(source: Path, out: Path, options: object, progress: object) -> None:
        calls.append(source)
        out.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("whit.export.prune.layers.drop_layers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(read_recipe(folder / "recipe.toml"), folder / "out", folder / "work")
    monkeypatch.undo()
    assert not (folder / "out").exists()

    report = run_recipe(read_recipe(folder / "recipe.toml"), folder / "out", folder / "work")

    assert len(calls) == 1
    assert [step.ran for step in report.steps] == [False, True]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('"corpus.txt"', '"nowhere.txt"', ("[[step]] number 1 (trim): corpus", "nowhere.txt", "does not exist")),
        ('"pairs.tsv"', '"corpus.txt"', ("corpus.txt", "sentence1")),
        ('dtype = "float32"', 'calibration = "nowhere.txt"', ("[export]", "calibration", "does not exist")),
        ('dtype = "float32"', 'dtype = "int4"', ("[export]: dtype must be one of float32, int8, got 'int4'",)),
        ('dtype = "float32"', 'name = "a/b"', ("[export]: name must be",)),
        ("[export]", '[[step]]\nstep = "soup"\nothers = []\n[export]', ("number 3 (soup): a soup needs at least 2",)),
    ],
)
def test_what_a_later_step_needs_is_looked_for_before_the_first(
    folder: Path, before: str, after: str, words: tuple[str, ...]
) -> None:
    (folder / "recipe.toml").write_text(RECIPE.replace(before, after))

    with pytest.raises((CheckpointError, EvaluationError)) as caught:
        run_recipe(read_recipe(folder / "recipe.toml"), folder / "out", folder / "work")

    assert all(word in str(caught.value) for word in words)
    assert not (folder / "out").exists()
    assert not (folder / "work").exists()


@pytest.mark.parametrize("work", ["out", "out/steps"])
def test_steps_are_not_kept_in_the_package_that_replaces_them(folder: Path, work: str) -> None:
    with pytest.raises(CheckpointError, match="which is replaced at the end; choose another --work"):
        run_recipe(read_recipe(folder / "recipe.toml"), folder / "out", folder / work)
    assert not (folder / "out").exists()


def test_a_step_that_refuses_is_named(folder: Path) -> None:
    (folder / "recipe.toml").write_text(RECIPE.replace("keep = [0]", "keep = [7]"))

    with pytest.raises(CheckpointError, match=r"recipe\.toml: \[\[step\]\] number 2 \(drop-layers\): keep must name"):
        run_recipe(read_recipe(folder / "recipe.toml"), folder / "out", folder / "work")


def test_stages_are_pooled_as_the_package_is(folder: Path) -> None:
    """A bare folder does not say how; measured by the mean, the package seemed to lose points that it does not lose."""
    write_checkpoint(folder / "model", pooling=None)
    (folder / "model" / "modules.json").unlink()
    (folder / "recipe.toml").write_text('checkpoint = "model"\n[export]\npooling = "cls"\ndtype = "float32"\n')

    report = run_recipe(read_recipe(folder / "recipe.toml"), folder / "out", folder / "work")

    assert [point.agreement for point in report.points] == [100, 100]


def test_the_command_prints_a_line_a_stage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = folder / "recipe.toml"
    recipe.write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8-sig")  # a byte order mark is no key
    arguments = ["export", "--recipe", str(recipe), "--out", str(folder / "my small")]

    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["name"] for point in found["points"]] == ["model", "trim", "drop-layers", "package (float32)"]
    assert read_manifest(folder / "my small").name == "my-small"
    assert (folder / "my small-steps" / "report.html").is_file()

    assert run(arguments) == 0
    printed = capsys.readouterr().out
    assert "kept from before" in printed
    assert "drop-layers" in printed
    assert printed.endswith(f"whit serve --models '{folder / 'my small'}'\n")


def test_options_that_a_recipe_holds_are_refused_beside_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "--recipe", str(folder / "recipe.toml"), "--out", str(folder / "small")]

    assert run([*arguments, "--dtype", "int8"]) == 2
    assert "set dtype in its [export] table" in capsys.readouterr().err


def test_a_recipe_ends_in_one_package(folder: Path) -> None:
    refuses(folder, RECIPE + "[static]\n", "leave out one of them")
    refuses(folder, 'checkpoint = "model"\n[static]\ndtype = "pq"\n', "[static] lacks the key 'texts'")


def test_a_static_student_comes_of_a_recipe(folder: Path) -> None:
    pytest.importorskip("scipy")
    (folder / "corpus.txt").write_text("\n".join(f"{a}, and {b}" for a in SENTENCES for b in SENTENCES))
    text = 'checkpoint = "model"\n[static]\ntexts = ["corpus.txt"]\ndimension_count = 8\nepochs = 1\ncache = "cache"\n'
    (folder / "recipe.toml").write_text(text)

    report = run_recipe(read_recipe(folder / "recipe.toml"), folder / "out", folder / "work")

    assert [point.name for point in report.points] == ["model", "package (int8)"]
    assert read_manifest(folder / "out").kind == "static"
    assert "svg" in (folder / "work" / "report.html").read_text()
