"""``whit serve``: every setting is an option, and options, environment and defaults become one configuration."""

from pathlib import Path

import click
import pytest

from whit.cli.app import run
from whit.cli.serve import read_config, serve
from whit.server.config import SETTINGS, Config


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)


def parse(*arguments: str) -> Config:
    """The configuration with which ``whit serve ARGUMENTS`` would start."""
    context = serve.make_context("serve", list(arguments))
    return read_config(context.params.pop("more_models"), context.params)


def test_every_setting_is_an_option_that_names_its_variable_and_default() -> None:
    options = {param.name: param for param in serve.params if isinstance(param, click.Option)}

    assert list(options) == [setting.name for setting in SETTINGS]
    for setting in SETTINGS:
        text = options[setting.name].help or ""
        assert options[setting.name].opts == [setting.flag]
        assert setting.variable in text
        assert setting.is_list or setting.is_switch or f"default: {setting.default}]" in text


def test_defaults() -> None:
    assert parse("--models", "a") == Config(models=(Path("a"),))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--models", "a", "--models", "b"),
        ("--models", "a", "b"),
        ("--data", "whit-data", "--models", "a", "b"),
        ("a", "b"),
    ],
)
def test_several_models(arguments: tuple[str, ...]) -> None:
    assert parse(*arguments).models == (Path("a"), Path("b"))


def test_options_after_several_models() -> None:
    config = parse("--models", "a", "b", "--data", "d", "--listen", "[::1]:0")

    assert (config.models, config.data, config.listen) == ((Path("a"), Path("b")), Path("d"), "[::1]:0")


def test_every_option_reaches_its_field() -> None:
    given = {
        "data": "d",
        "listen": "unix:/tmp/s",
        "drain_timeout_s": "1.5",
        "stream_idle_timeout_s": "2.5",
        "log_format": "json",
        "log_level": "debug",
        "provider": "onnxruntime",
        "message_byte_count": str(1 << 25),
        "text_byte_count": str(1 << 19),
    }
    numbers = {
        s.name: "77777" for s in SETTINGS if isinstance(s.default, int) and not s.is_switch and s.name not in given
    }
    numbers |= {"worker_count": "7", "batch_item_count": "7", "stream_window_count": "7", "max_stream_count": "7"}
    numbers["inflight_byte_count"] = str(1 << 29)
    given |= numbers
    arguments = [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), value)]

    config = parse("--models", "a", "--allow-unverified", *arguments)

    assert {name: str(getattr(config, name)) for name in given} == given
    assert config.allow_unverified
    assert set(given) | {"models", "allow_unverified"} == {s.name for s in SETTINGS}


def test_environment_fills_what_the_command_line_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIT_MODELS", "/srv/a:/srv/b")
    monkeypatch.setenv("WHIT_WORKER_COUNT", "3")
    monkeypatch.setenv("WHIT_ALLOW_UNVERIFIED", "yes")
    monkeypatch.setenv("WHIT_LOG_FORMAT", "json")

    config = parse("--worker-count", "5")

    assert config.models == (Path("/srv/a"), Path("/srv/b"))
    assert (config.worker_count, config.allow_unverified, config.log_format) == (5, True, "json")
    assert parse("--models", "c").models == (Path("c"),)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "no models to serve; give at least one package directory with --models DIR or WHIT_MODELS"),
        (["--models", "a", "--listen", "7600"], "--listen must be HOST:PORT"),
        (
            ["--models", "a", "--worker-count", "many"],
            "--worker-count must be a whole number from 0 to 1024; got 'many'",
        ),
        (
            ["--models", "a", "--log-level", "loud"],
            "--log-level must be one of debug, info, warning, error; got 'loud'",
        ),
        (["--models", "a", "--nonsense"], "No such option '--nonsense'"),
    ],
)
def test_setting_that_cannot_be_used_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert run(["serve", *arguments]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"whit serve: {line}")
    assert captured.err.endswith("See: whit serve --help\n")
    assert captured.err.count("\n") == 1


def test_variable_that_cannot_be_used_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHIT_DRAIN_TIMEOUT_S", "soon")

    assert run(["serve", "--models", "a"]) == 2
    assert "WHIT_DRAIN_TIMEOUT_S must be a number of seconds from 0 to 3600; got 'soon'" in capsys.readouterr().err
