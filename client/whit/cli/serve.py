"""``whit serve``: the server, in the foreground. Its options are the settings of ``whit.server.config``, every one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from whit.cli.command import command
from whit.server.config import SETTINGS, Config, ConfigError, Setting, build_config

_Function = TypeVar("_Function", bound=Callable[..., Any])

_METAVARS = {int: "N", float: "SECONDS", type(Path()): "DIR", str: "WORD"}


def setting_option(setting: Setting) -> Callable[[_Function], _Function]:
    """The command line's option for one setting. Not given means None: the environment or the default then decides."""
    if setting.is_switch:
        # False could not say whether it was given, and the environment would never be asked.
        help_text = f"{setting.help}  [{setting.variable}=1]"
        return click.option(setting.flag, setting.name, flag_value="true", default=None, help=help_text)
    if setting.is_list:
        help_text = f"{setting.help} Several: --models A B, or repeat it.  [{setting.variable}]"
        return click.option(setting.flag, setting.name, metavar="DIR", multiple=True, help=help_text)
    metavar = "ADDR" if setting.name == "listen" else _METAVARS[type(setting.default)]
    help_text = f"{setting.help}  [{setting.variable}; default: {setting.default}]"
    return click.option(setting.flag, setting.name, metavar=metavar, help=help_text)


def setting_options(function: _Function) -> _Function:
    """Adds one option for each setting, in the order of the settings."""
    for setting in reversed(SETTINGS):
        function = setting_option(setting)(function)
    return function


@command(
    "serve",
    examples=[
        "whit serve --models packages/all-MiniLM-L6-v2 --data whit-data",
        "whit serve --models packages/small packages/large --listen 0.0.0.0:7600 --worker-count 4",
        "WHIT_MODELS=/srv/small:/srv/large WHIT_LOG_FORMAT=json whit serve",
    ],
    exit_codes={
        0: "stopped by SIGTERM, SIGINT or SIGHUP, after the calls in progress were answered",
        1: "could not start (a package is refused, the data directory is in use, the address is taken), or a worker died: "
        "stderr says which",
        2: "a setting cannot be used, or an extra is missing",
    },
)
@click.argument("more_models", nargs=-1, metavar="[DIR]...")
@setting_options
def serve(more_models: tuple[str, ...], **flags: object) -> int:
    """Serve packages and collections over gRPC until SIGTERM, SIGINT or SIGHUP.

    Every option can be given as a WHIT_* variable; the option wins. Further DIRs on the command line are packages too. The
    server opens no outgoing connection, and prints its configuration at start.
    """
    config = read_config(more_models, flags)
    from whit.server.app import serve as serve_config

    return serve_config(config)


def read_config(more_models: tuple[str, ...], flags: dict[str, object]) -> Config:
    """The configuration from the command line and, for what was not given there, the environment.

    Raises:
        click.UsageError: a setting cannot be used; the message names it.
    """
    given = flags.get("models") or ()
    assert isinstance(given, tuple)
    try:
        return build_config({**flags, "models": (*given, *more_models)}, os.environ)
    except ConfigError as error:
        raise click.UsageError(f"{error}.") from None
