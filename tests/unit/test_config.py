"""Settings: from flags, variables and defaults; every one documented."""

import dataclasses
from pathlib import Path

import pytest

from whit.server.config import SETTINGS, Config, ConfigError, build_config, describe
from whit.server.reference import page

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
MODELS = {"models": ["m"]}


def refused(flags, environ=None):
    with pytest.raises(ConfigError) as error:
        build_config(flags, environ or {})
    return str(error.value)


def test_the_committed_page_is_fresh():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m whit.server.reference > docs/configuration.md"


def test_the_page_has_every_setting():
    text = PAGE.read_text(encoding="utf-8")
    for field in dataclasses.fields(Config):
        assert f"| `--{field.name.replace('_', '-')}` | `WHIT_{field.name.upper()}` |" in text


def test_every_setting_says_what_it_does_in_a_sentence():
    assert [s.name for s in SETTINGS] == [f.name for f in dataclasses.fields(Config)]
    assert all(s.help[0].isupper() and s.help.endswith(".") for s in SETTINGS)


def test_flag_wins_over_variable_over_default():
    environ = {"WHIT_WORKER_COUNT": "3", "WHIT_BATCH_ITEM_COUNT": "10", "WHIT_LISTEN": ""}
    config = build_config(MODELS | {"worker_count": "5", "batch_item_count": None}, environ)
    assert (config.worker_count, config.batch_item_count, config.listen) == (5, 10, "127.0.0.1:7600")


def test_models_come_from_repeated_flags_or_a_path_like_variable():
    assert build_config({"models": ["a", "b"]}, {}).models == (Path("a"), Path("b"))
    assert build_config({"models": []}, {"WHIT_MODELS": "a:b:"}).models == (Path("a"), Path("b"))


def test_no_models_is_refused():
    assert "--models DIR or WHIT_MODELS" in refused({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("worker_count", "-1"),
        ("worker_count", "many"),
        ("worker_count", "1.5"),
        ("queue_token_count", "0"),
        ("batch_item_count", "65537"),
        ("drain_timeout_s", "nan"),
        ("drain_timeout_s", "-1"),
        ("drain_timeout_s", "inf"),
        ("allow_unverified", "maybe"),
        ("log_format", "xml"),
        ("log_level", "loud"),
        ("listen", "7600"),
        ("listen", "localhost:"),
        ("listen", "localhost:port"),
        ("listen", "localhost:65536"),
        ("listen", "::1:7600"),
        ("listen", "unix:"),
        ("data", ""),
    ],
)
def test_bad_values_are_refused_by_the_name_that_was_used(name, value):
    if value:
        assert refused(MODELS, {f"WHIT_{name.upper()}": value}).startswith(f"WHIT_{name.upper()} must be")
    assert refused(MODELS | {name: value}).startswith(f"--{name.replace('_', '-')} must be")


@pytest.mark.parametrize("listen", ["localhost:0", "0.0.0.0:7600", "[::1]:7600", "unix:/run/whit.sock"])
def test_addresses(listen):
    assert build_config(MODELS, {"WHIT_LISTEN": listen}).listen == listen


@pytest.mark.parametrize(("text", "value"), [("1", True), ("true", True), ("YES", True), ("0", False), ("no", False)])
def test_switches(text, value):
    assert build_config(MODELS, {"WHIT_ALLOW_UNVERIFIED": text}).allow_unverified is value


def test_settings_that_contradict_each_other_are_refused():
    small = {"message_byte_count": 70_000}
    assert "must be more than text_byte_count" in refused(MODELS | small | {"metadata_byte_count": 10})
    assert "must be more than metadata_byte_count" in refused(
        MODELS | small | {"text_byte_count": 10, "metadata_byte_count": 70_000}
    )
    assert "inflight_byte_count (5)" in refused(MODELS | {"inflight_byte_count": 5})


def test_an_unknown_setting_is_refused():
    assert "there is no setting 'colour'" in refused(MODELS | {"colour": "red"})


def test_the_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        build_config(MODELS, {}).listen = "elsewhere:1"


def test_it_is_described_in_plain_values():
    described = describe(build_config(MODELS, {}))
    assert described["models"] == ["m"]
    assert described["data"] == "whit-data"
    assert list(described) == [s.name for s in SETTINGS]
