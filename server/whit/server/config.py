"""The settings of ``whit serve``: one frozen dataclass, made once from flags, then ``WHIT_*`` variables, then defaults.

Every field describes itself in its metadata; the command line's options, the environment's names and the check that
docs/configuration.md is complete are all derived from that.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whit.contract.manifest import PROVIDERS

ENV_PREFIX = "WHIT_"
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")

_MIB = 1 << 20
_DEFAULT_DATA = Path("whit-data")


class ConfigError(ValueError):
    """A setting has a value that cannot be used. The message names the setting and says what it may be."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, for a command line or for a reader: how it is called, what it is by default, what it does."""

    name: str
    default: object
    help: str
    is_list: bool
    is_switch: bool

    @property
    def flag(self) -> str:
        """As an option: ``--queue-token-count``."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """In the environment: ``WHIT_QUEUE_TOKEN_COUNT``."""
        return ENV_PREFIX + self.name.upper()


def _setting(default: object, read: Callable[[object], object], help_text: str) -> Any:
    return dataclasses.field(default=default, metadata={"read": read, "help": help_text})


def _paths(value: object) -> tuple[Path, ...]:
    # A list comes from repeated flags, a string from the environment, where it is written like PATH.
    parts = value.split(os.pathsep) if isinstance(value, str) else value
    if not isinstance(parts, Sequence):
        raise ValueError("must be directories")  # noqa: TRY004  (every bad setting is a ValueError here)
    return tuple(Path(part) for part in parts if str(part))


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("must be a directory")
    return Path(value)


def _integer(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        try:
            number = int(value) if isinstance(value, int | str) else None
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return number

    return read


def _seconds(value: object) -> float:
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number <= 3600:
        raise ValueError("must be a number of seconds from 0 to 3600")
    return number


def _switch(value: object) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    choice = value if isinstance(value, bool) else known.get(str(value).lower())
    if choice is None:
        raise ValueError("must be true or false")
    return choice


def _choice(choices: Sequence[str]) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(value)

    return read


def _address(value: object) -> str:
    text = str(value)
    if text.startswith("unix:") and len(text) > len("unix:"):
        return text
    host, _, port = text.rpartition(":")
    # The host of an IPv6 address is in brackets, or its last group would read as the port.
    plain = ":" not in host or (host.startswith("[") and host.endswith("]"))
    if not host or not plain or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT (port 0 picks a free one), [IPV6]:PORT or unix:PATH")
    return text


@dataclass(frozen=True, slots=True)
class Config:
    """What the server was told. Sizes are bytes, lengths tokens, times seconds: the unit is in the name."""

    models: tuple[Path, ...] = _setting((), _paths, "Package directories to serve. At least one.")
    data: Path = _setting(  # noqa: RUF009  (a Path never changes)
        _DEFAULT_DATA, _path, "Directory of the collections. Made if need be; one server at a time."
    )
    listen: str = _setting("127.0.0.1:7600", _address, "Address to listen on: HOST:PORT, [IPV6]:PORT or unix:PATH.")
    worker_count: int = _setting(
        0,
        _integer(0, 1024),
        "Threads that run models. 0: the cores that affinity and cgroup leave to this process. If there is a core for each, each keeps to one.",
    )
    queue_token_count: int = _setting(
        131_072,
        _integer(1, 1 << 31),
        "Tokens that may wait for one model. Beyond, unary calls get RESOURCE_EXHAUSTED and streams are held back.",
    )
    micro_batch_token_count: int = _setting(
        512, _integer(1, 1 << 20), "Tokens in one run of a model. A longer text runs alone."
    )
    batch_item_count: int = _setting(1024, _integer(1, 65_536), "Items in one request or stream message.")
    text_byte_count: int = _setting(_MIB, _integer(1, 1 << 28), "Bytes of UTF-8 in one text.")
    message_byte_count: int = _setting(16 * _MIB, _integer(65_536, 1 << 29), "Bytes of one gRPC message, either way.")
    metadata_byte_count: int = _setting(65_536, _integer(2, 1 << 24), "Bytes of one point's metadata as JSON.")
    search_hit_count: int = _setting(1000, _integer(1, 100_000), "Hits of one query.")
    stream_window_count: int = _setting(
        8,
        _integer(1, 1024),
        "Batches of one stream that are worked on at a time. It is read no further until one is answered.",
    )
    max_stream_count: int = _setting(128, _integer(1, 65_536), "Streams open at a time. Beyond: RESOURCE_EXHAUSTED.")
    stream_idle_timeout_s: float = _setting(
        600.0,
        _seconds,
        "How long a stream may be idle: its client sends nothing while nothing of it is worked on, or takes no answer. Then it "
        "ends with STREAM_IDLE. 0: for ever.",
    )
    max_call_count: int = _setting(1024, _integer(1, 1 << 20), "Unary calls at a time. Beyond: RESOURCE_EXHAUSTED.")
    inflight_byte_count: int = _setting(
        256 * _MIB,
        _integer(1, 1 << 40),
        "Bytes of all requests being worked on, and of streams' answers until they are taken. Beyond, unary calls get "
        "RESOURCE_EXHAUSTED and streams are held back.",
    )
    drain_timeout_s: float = _setting(
        30.0, _seconds, "After SIGTERM, SIGINT or SIGHUP, how long calls in progress may take to finish."
    )
    provider: str = _setting(
        "auto",
        _choice(PROVIDERS),
        "What runs models with a graph: native (whit's own kernels), onnxruntime, or auto (native where it can).",
    )
    allow_unverified: bool = _setting(
        False,
        _switch,
        "Serve a package even if its golden vectors differ on this machine (Model.verified is then false).",
    )
    log_format: str = _setting("text", _choice(LOG_FORMATS), "Log lines as text or as json, on stderr.")
    log_level: str = _setting("info", _choice(LOG_LEVELS), "Least level logged: debug, info, warning or error.")


SETTINGS: Sequence[Setting] = tuple(
    Setting(
        field.name,
        field.default,
        field.metadata["help"],
        is_list=field.metadata["read"] is _paths,
        is_switch=field.metadata["read"] is _switch,
    )
    for field in dataclasses.fields(Config)
)


def build_config(flags: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """Makes the configuration: for each field the flag if given (not None), else the variable, else the default.

    Args:
        flags: values by field name. An empty list counts as not given. Text is read like a variable's.
        environ: environment variables. Empty ones count as not set.

    Raises:
        ConfigError: the value of a setting cannot be used, or there is no such setting.
    """
    fields = {field.name: field for field in dataclasses.fields(Config)}
    unknown = sorted(set(flags) - set(fields))
    if unknown:
        raise ConfigError(f"there is no setting {unknown[0]!r}; the settings are {', '.join(fields)}")
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        given, source = flags.get(setting.name), setting.flag
        if given is None or given == () or given == []:
            given, source = environ.get(setting.variable) or None, setting.variable
        if given is None:
            continue
        try:
            values[setting.name] = fields[setting.name].metadata["read"](given)
        except ValueError as error:
            raise ConfigError(f"{source} {error}; got {given!r}") from None
    config = Config(**values)
    _check_together(config)
    return config


def _check_together(config: Config) -> None:
    if not config.models:
        raise ConfigError(
            "no models to serve; give at least one package directory with --models DIR or WHIT_MODELS "
            "(whit export makes packages)"
        )
    for larger, smaller in (("message_byte_count", "text_byte_count"), ("message_byte_count", "metadata_byte_count")):
        if getattr(config, larger) <= getattr(config, smaller):
            raise ConfigError(
                f"{larger} ({getattr(config, larger)}) must be more than {smaller} ({getattr(config, smaller)}), "
                "or no message could hold one; raise the first or lower the second"
            )
    if config.inflight_byte_count < config.message_byte_count:
        raise ConfigError(
            f"inflight_byte_count ({config.inflight_byte_count}) must be at least message_byte_count "
            f"({config.message_byte_count}), or the largest message could never be served; raise it"
        )


def describe(config: Config) -> dict[str, object]:
    """The settings as plain values, for the log line at start. None of them is a secret."""
    return {name: _plain(value) for name, value in dataclasses.asdict(config).items()}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [str(part) for part in value]
    return str(value) if isinstance(value, Path) else value
