"""The command itself: what is loaded when, what is said when something is missing or fails."""

import builtins
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

import whit
import whit.cli
from whit.cli import app
from whit.cli.command import Failure, WhitCommand, command

OURS = ("whit.cli", "whit.runtime", "whit.export", "whit.server")


def is_ours(name: str) -> bool:
    return name.startswith(tuple(f"{ours}." for ours in OURS)) or name in OURS


def group_context() -> click.Context:
    return click.Context(app.group, info_name="whit", **app.group.context_settings)


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes top-level packages unimportable, as if they were not installed."""
    real, before = builtins.__import__, set(sys.modules)
    for name in ("cli", "runtime", "export", "server"):
        if name in vars(whit):
            monkeypatch.setattr(whit, name, getattr(whit, name))  # what is imported meanwhile must not stay

    def hide_packages(*names: str) -> None:
        def importer(
            name: str,
            globals: Mapping[str, object] | None = None,  # noqa: A002 - the names of __import__
            locals: Mapping[str, object] | None = None,  # noqa: A002
            fromlist: Sequence[str] = (),
            level: int = 0,
        ) -> ModuleType:
            if level == 0 and name.partition(".")[0] in names:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name, globals, locals, fromlist, level)

        for loaded in list(sys.modules):
            if loaded.partition(".")[0] in names or is_ours(loaded):
                monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setattr(builtins, "__import__", importer)

    yield hide_packages
    for loaded in set(sys.modules) - before:
        if is_ours(loaded):
            del sys.modules[loaded]


def test_help_lists_every_command_and_imports_none() -> None:
    code = "import sys; from whit.cli import main; main(['--help']); print(sorted(m for m in sys.modules if m.startswith('whit.')))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *help_lines, modules = result.stdout.splitlines()
    assert all(any(line.split()[:1] == [name] for line in help_lines) for name in app.COMMANDS)
    assert modules == "['whit.cli', 'whit.cli.app', 'whit.cli.command']"
    assert "rich" not in result.stderr


def test_without_click_one_line_says_what_to_install(
    hide: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    hide("click")
    assert whit.cli.main(["--help"]) == 2
    assert capsys.readouterr().err == "whit: the command line needs the cli extra: pip install 'whit[cli]'\n"


@pytest.mark.parametrize(
    ("arguments", "missing", "line"),
    [
        (["verify", "."], "tokenizers", "whit verify needs the server extra: pip install 'whit[server]'"),
        (["serve", "--models", "."], "usearch", "whit serve needs the server extra: pip install 'whit[server]'"),
        (["export", ".", "--out", "x"], "onnx", "whit export needs the export extra: pip install 'whit[export]'"),
        (["demo"], "onnx", "whit demo needs the server and export extras: pip install 'whit[server,export]'"),
        (
            ["static", ".", "--texts", "x", "--out", "y"],
            "scipy",
            "whit static needs the static extra: pip install 'whit[static]'",
        ),
        (
            ["distill", ".", "--teacher", ".", "--texts", "x", "--out", "y"],
            "torch",
            "whit distill needs the train extra: pip install 'whit[train]'",
        ),
        (["models"], "rich", "whit models needs the cli extra: pip install 'whit[cli]'"),
    ],
)
def test_missing_extra_is_one_line(
    hide: Callable[..., None], capsys: pytest.CaptureFixture[str], arguments: list[str], missing: str, line: str
) -> None:
    hide(missing)
    assert whit.cli.main(arguments) == 2
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize(("missing", "extra"), [("torch", "train"), ("scipy", "static"), ("onnx", "export")])
def test_a_recipe_asks_for_the_extra_of_the_library_that_it_lacks(missing: str, extra: str) -> None:
    """`whit export` itself needs less than some steps of a recipe."""
    line, code = app.explain(ModuleNotFoundError("", name=f"{missing}.part"), "export")
    assert (line, code) == (f"whit export needs the {extra} extra: pip install 'whit[{extra}]'", 2)


@pytest.mark.parametrize("name", list(app.COMMANDS))
def test_every_command_has_help_with_summary_example_and_exit_codes(name: str) -> None:
    found = app.group.get_command(group_context(), name)
    assert isinstance(found, WhitCommand)
    assert found.name == name
    assert found.examples
    assert all(f"whit {name}" in example for example in found.examples)
    text = found.get_help(click.Context(found, info_name=name, parent=group_context()))
    assert all(example in text for example in found.examples)
    assert "Exit codes:" in text
    options = [p for p in found.params if isinstance(p, click.Option)]
    assert all(option.help for option in options)
    assert all(any(o.startswith("--") for o in option.opts) for option in options)


@pytest.mark.parametrize("name", list(app.COMMANDS))
def test_every_example_is_a_command_line_that_is_understood(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes").mkdir()
    for file in ("texts.txt", "README.md", "faq.jsonl"):
        Path(file).write_text("what the examples read")
    found = app.group.get_command(group_context(), name)
    assert isinstance(found, WhitCommand)
    for example in found.examples:
        words = shlex.split(example)
        start = words.index("whit")
        end = words.index("|", start) if "|" in words[start:] else len(words)
        assert words[start + 1] == name
        found.make_context(name, words[start + 2 : end], parent=group_context())


@pytest.mark.parametrize("name", [n for n in app.COMMANDS if n != "serve"])
def test_every_command_that_reports_has_json(name: str) -> None:
    found = app.group.get_command(group_context(), name)
    assert found is not None
    assert any("--json" in param.opts for param in found.params)


def run_failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    @command("info", examples=["whit info"])
    def info() -> None:
        """Fail."""
        raise error

    def get_command(self: app.LazyGroup, ctx: click.Context, name: str) -> Any:
        return info

    monkeypatch.setattr(app.LazyGroup, "get_command", get_command)
    return app.run(["info"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (Failure("it did not work; do that"), 1, "whit info: it did not work; do that"),
        (click.UsageError("bad flag."), 2, "whit info: bad flag. See: whit info --help"),
        (
            FileNotFoundError(2, "No such file or directory", "x.txt"),
            1,
            "whit info: x.txt: No such file or directory; check the path and its permissions",
        ),
        (KeyError("a\nb"), 1, "whit info: internal error: KeyError: 'a\\nb' (WHIT_DEBUG=1 shows the traceback)"),
        (ValueError("a\nb"), 1, "whit info: internal error: ValueError: a b (WHIT_DEBUG=1 shows the traceback)"),
        (
            ModuleNotFoundError("No module named 'whit.gone'", name="whit.gone"),
            1,
            "internal error: ModuleNotFoundError",
        ),
        (KeyboardInterrupt(), 130, "whit: interrupted"),
    ],
)
def test_failure_is_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    monkeypatch.delenv("WHIT_DEBUG", raising=False)
    assert run_failing(monkeypatch, error) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (
        captured.err.strip().count("\n") == 0
    )  # click writes an empty line after an interrupt, to end the line with "^C"
    assert line in captured.err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WHIT_DEBUG", "1")
    assert run_failing(monkeypatch, ValueError("why")) == 1
    assert "Traceback" in capsys.readouterr().err


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["nonsense"]) == 2
    assert capsys.readouterr().err == "whit: No such command 'nonsense'. See: whit --help\n"
    assert app.run(["inspect"]) == 2
    assert capsys.readouterr().err == "whit inspect: Missing argument 'PACKAGE'. See: whit inspect --help\n"
    assert app.run([]) == 2
    assert "Usage: whit" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("whit 0.")
