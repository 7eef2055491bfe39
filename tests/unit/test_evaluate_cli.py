"""``whit eval`` and ``whit compare`` on tiny packages: what they print and draw, and what they refuse, on one line."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from tests.support.tiny import write_checkpoint
from whit.cli.app import run
from whit.cli.evaluate import CODES
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.evaluate.codes import Code
from whit.export.evaluate.pareto import Candidate, Speed, dominates
from whit.export.evaluate.plot import Panel, Point, html, svg

WORDS = "the cat sat on a file server good water men dog play small large house tree sun point answer error paper"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two packages and one that offers a depth, a set of each kind."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name, seed in (("one", 0), ("two", 1)):
        checkpoint = write_checkpoint(folder / f"{name}-checkpoint", seed=seed)
        compile_checkpoint(checkpoint, folder / name, ExportOptions(dtype="float32"))
    compile_checkpoint(folder / "one-checkpoint", folder / "deep", ExportOptions(dtype="float32", depths=(1,)))
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS.split(), 6)) for _ in range(40)]
    pairs = [f"{a}\t{b}\t{i % 2}" for i, (a, b) in enumerate(zip(texts[:20], texts[20:], strict=True))]
    (folder / "pairs.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *pairs]), encoding="utf-8")
    (folder / "labels.txt").write_text("\n".join(f"l{i % 2}\t{t}" for i, t in enumerate(texts)), encoding="utf-8")
    beir = folder / "beir"
    (beir / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": f"d{i}", "text": text}) for i, text in enumerate(texts)]
    (beir / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (beir / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": texts[3]}), encoding="utf-8")
    (beir / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq\td3\t1\n", encoding="utf-8")
    return folder


def output(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def failure(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return code, captured.err.strip()


def test_names_of_encodings_are_those_of_the_codes() -> None:
    assert tuple(Code) == CODES


def test_eval_json_has_every_set_package_and_form(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--sts", folder / "pairs.tsv", "--retrieval", f"{folder / 'beir'}:dev", "--classify", folder / "labels.txt"]
    forms = ["--dims", "32,16", "--encodings", "float32,2bit", "--centre"]

    found = json.loads(output(capsys, "eval", folder / "one", folder / "two", *sets, "--stress", "5", *forms, "--json"))

    assert [package["name"] for package in found["packages"]] == ["one", "two"]
    assert [(s["name"], s["metric"], s["item_count"]) for s in found["sets"]] == [
        ("pairs", "Spearman", 20),
        ("beir:dev", "nDCG@10", 1),
        ("labels", "accuracy", 40),
        ("limit-5", "recall@2", 10),
    ]
    rows = found["sets"][1]["rows"]
    assert [(row["dimension_count"], row["code"]) for row in rows[:4]] == [
        (32, "float32"),
        (32, "2bit, centred"),
        (16, "float32"),
        (16, "2bit, centred"),
    ]
    assert rows[0]["score"] == 100  # the query is the document's own text
    assert rows[0]["comparison"] is None
    assert rows[4]["against"] == "one, 32 float32"
    assert rows[4]["interval"] == {"low": 100, "high": 100}


def test_eval_table_names_package_score_and_interval(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = output(capsys, "eval", folder / "one", "--retrieval", f"{folder / 'beir'}:dev")

    assert "beir:dev: nDCG@10 x 100 over 1 items" in out
    assert "100.00 to 100.00" in out
    assert "difference" not in out  # of nothing to compare with


def test_eval_prints_cutoffs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("eval", folder / "one", "--pairs", folder / "pairs.tsv", "--precision", "0.5")

    table = output(capsys, *arguments)
    found = json.loads(output(capsys, *arguments, "--json"))["cutoffs"]

    assert "best F1" in table
    assert "precision 0.5" in table
    assert [(cut["set"], cut["package"], cut["pair_count"], cut["match_count"]) for cut in found] == [
        ("pairs", "one", 20, 10)
    ]
    best = found[0]["best_f1"]
    assert best["interval"]["low"] <= best["cosine"] <= best["interval"]["high"]


def test_eval_scores_each_depth_of_a_package(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("eval", folder / "deep", "--sts", folder / "pairs.tsv")

    found = json.loads(output(capsys, *arguments, "--layers", "2,1", "--json"))
    plain = json.loads(output(capsys, *arguments, "--json"))["sets"][0]["rows"][0]

    assert [(p["name"], p["layer_count"]) for p in found["packages"]] == [("deep (2 layers)", 2), ("deep (1 layer)", 1)]
    both, one = found["sets"][0]["rows"]
    assert both["score"] == plain["score"]  # two layers are all that it has
    assert one["score"] != plain["score"]
    assert one["against"] == "deep (2 layers), 32 float32"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["one", "--layers", "1"],
            "--layers cannot be 1: one is run with all its layers only; export it with --depths",
        ),
        (["deep", "--layers", "3"], "--layers cannot be 3: deep offers 1, 2; export it with --depths"),
        (["deep", "--layers", "two"], "give whole numbers separated by commas, got 'two'"),
    ],
)
@pytest.mark.parametrize("name", ["eval", "compare"])
def test_a_depth_that_a_package_does_not_have(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(folder)

    _, line = failure(capsys, name, *arguments, "--sts", "pairs.tsv")

    assert words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to evaluate on; give --sts"),
        (["--sts", "labels.txt"], "labels.txt, line 1: no column 'sentence1'"),
        (["--sts", "none.tsv"], "none.tsv: No such file or directory"),
        (["--retrieval", "beir"], "has no split 'test'"),
        (["--stress", "900"], "--stress must be 3 to 54 documents, got 900"),
        (["--sts", "pairs.tsv", "--dims", "999"], "--dims must be 1 to 32"),
        (["--sts", "pairs.tsv", "--dims", "x"], "is no list of numbers"),
        (["--sts", "pairs.tsv", "--encodings", "int3"], "'int3' is none of float32"),
        (["--pairs", "pairs.tsv", "--match-from", "7"], "has no pairs that match"),
    ],
)
def test_eval_refuses_on_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(folder)

    code, line = failure(capsys, "eval", "one", *arguments)

    assert code in (1, 2)
    assert words in line
    assert line.startswith("whit eval: ")


def test_compare_prints_draws_and_gives_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("compare", folder / "one", folder / "two", "--sts", folder / "pairs.tsv", "--rounds", "1")

    table = output(capsys, *arguments, "--plot", tmp_path / "plot.svg")
    found = json.loads(output(capsys, *arguments, "--json", "--plot", tmp_path / "plot.html"))

    assert "times one" in table
    assert "difference from one" in table
    one, two = found["packages"]
    assert one["speed"]["ratio"] == 1
    assert one["size_bytes"] == sum(path.stat().st_size for path in (folder / "one").iterdir())
    assert [row["score"] for row in found["sets"][0]["rows"]] == [one["scores"][0], two["scores"][0]]
    drawn = ET.fromstring((tmp_path / "plot.svg").read_text(encoding="utf-8"))
    assert len(drawn.findall(".//{http://www.w3.org/2000/svg}circle")) == 4  # two packages in two panels
    assert "<svg" in (tmp_path / "plot.html").read_text(encoding="utf-8")


def test_compare_times_each_depth_of_a_package(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--sts", folder / "pairs.tsv", "--rounds", "1", "--layers", "2,1", "--json")

    two, one = json.loads(output(capsys, "compare", folder / "deep", *options))["packages"]

    assert (two["name"], one["name"]) == ("deep (2 layers)", "deep (1 layer)")
    assert two["size_bytes"] == one["size_bytes"]
    assert two["scores"] != one["scores"]


def test_compare_refuses_another_kind_of_plot(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = failure(capsys, "compare", folder / "one", "--sts", folder / "pairs.tsv", "--plot", "plot.png")

    assert code == 2
    assert "plot.png must end in .svg or .html" in line


def candidate(name: str, size: int, ratio: float, *scores: float) -> Candidate:
    return Candidate(name, size, Speed(1, 1, ratio, ratio, ratio, ratio), scores)


def test_one_package_dominates_another_only_if_it_is_nowhere_worse() -> None:
    base = candidate("base", 100, 1, 80, 40)

    assert dominates(candidate("better", 90, 2, 80, 41), base)
    assert dominates(candidate("only faster", 100, 2, 80, 40), base)
    assert not dominates(candidate("smaller but worse", 50, 2, 80, 39), base)
    assert not dominates(base, base)


def test_plots_escape_names_and_survive_a_single_point_and_wide_ranges() -> None:
    panels = [
        Panel("one", "size", "score", [Point("<a&b>", 5, 80)]),
        Panel("many", "speed", "score", [Point(str(i), 10.0**i, 50 + i / 7) for i in range(-1, 5)]),
    ]

    drawn = ET.fromstring(svg(panels))
    numbers = [float(c.attrib[key]) for c in drawn.iter() for key in ("cx", "cy") if key in c.attrib]

    assert "<a&b>" in "".join(drawn.itertext())
    assert all(np.isfinite(numbers))
    assert all(0 <= number <= 480 for number in numbers)
    assert "&lt;title&gt;" in html(panels, "<title>")
