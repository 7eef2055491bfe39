"""The group of all commands, and the one place where a failure becomes a line on stderr and an exit code.

A command's module is imported when the command is run or its own help is asked for, never for ``whit --help``: the list
of commands must be quick, and must work where an extra is missing.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import click

from whit.cli.command import EXIT_CODES, write_exit_codes

if TYPE_CHECKING:
    from whit.export.errors import OptionError


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives: ``module`` has an attribute of the command's name; ``extras`` is what it needs installed."""

    module: str
    summary: str
    extras: str = "cli"


COMMANDS: Mapping[str, Entry] = {
    "export": Entry("whit.cli.export", "Compile a checkpoint into a package.", "export"),
    "trim": Entry("whit.cli.trim", "Take words out of a checkpoint's vocabulary.", "export"),
    "prune": Entry("whit.cli.prune", "Leave layers, heads or columns out of a checkpoint.", "export"),
    "distill": Entry("whit.cli.distill", "Train a checkpoint to give a larger model's vectors.", "train"),
    "soup": Entry("whit.cli.soup", "Average the weights of checkpoints that were trained from one start.", "export"),
    "static": Entry("whit.cli.static", "Make a table of vectors that stands in for a transformer.", "static"),
    "words": Entry("whit.cli.words", "Make a package of word vectors from a file of them.", "export"),
    "verify": Entry("whit.cli.verify", "Recompute a package's golden vectors on this machine.", "server"),
    "inspect": Entry("whit.cli.inspect", "Show what is in a package."),
    "eval": Entry("whit.cli.evaluate", "Score packages on evaluation sets.", "export"),
    "compare": Entry("whit.cli.compare", "Put packages beside each other: size, speed, quality.", "export"),
    "serve": Entry("whit.cli.serve", "Serve packages and collections over gRPC.", "server"),
    "embed": Entry("whit.cli.embed", "Turn texts into vectors."),
    "index": Entry("whit.cli.index", "Put files into a collection."),
    "search": Entry("whit.cli.search", "Ask a collection a question."),
    "models": Entry("whit.cli.models", "List the models a server has loaded."),
    "info": Entry("whit.cli.info", "Show a server's version, limits, models and collections."),
    "load": Entry("whit.cli.load", "Send requests at a given rate and show what the server makes of them."),
    "demo": Entry("whit.cli.demo", "Compile, serve, index and search, all on this machine.", "server,export"),
}

# A recipe may need more than its command: a library that only one extra has tells which.
EXTRA_OF_LIBRARY: Mapping[str, str] = {"scipy": "static", "torch": "train", "transformers": "train"}

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Failures that a user can meet. Looked up in sys.modules when one is raised: importing these here would cost every start.
EXPECTED_ERRORS = (
    ("whit.contract.manifest", "PackageError"),
    ("whit.client", "WhitError"),
    ("whit.server.errors", "ServiceError"),
    ("whit.export.errors", "CheckpointError"),
    ("whit.export.evaluate.data", "EvaluationError"),
)


class LazyGroup(click.Group):
    """Knows the commands by name and summary; loads one only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which a new user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module. An unknown name gives None, which click reports."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes names and summaries from the table, so that nothing is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the exit codes and where to go next."""
        write_exit_codes(formatter, EXIT_CODES)
        with formatter.section("Start here"):
            formatter.write_text("whit COMMAND --help")


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version  # 30 ms that no other call should pay

        click.echo(f"whit {version('whit')}")
        ctx.exit()


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["--help", "-h"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def group() -> None:
    """Small, exact text encoders: compile a checkpoint, serve it over gRPC, index texts and search them.

    WHIT_SERVER=ADDR sets the server for every command that talks to one. WHIT_DEBUG=1 shows the traceback of a failure.
    """


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; every failure ends in one line on stderr."""
    # gRPC reads this when it is imported; its default has a line for every handshake that fails.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    _prepare_streams()
    try:
        result = group.main(list(arguments), prog_name="whit", standalone_mode=False)
        _flush()  # a closed pipe or a full disk shows here, not while the interpreter shuts down
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(f"{error.format_message()}\n")
        return 2
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("whit: interrupted\n")
        return 130
    except BrokenPipeError:
        # The reader has left ("whit search … | head"): nobody is to be told, and no later flush may complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last line of defence turns everything into one line
        if os.environ.get("WHIT_DEBUG", "") not in {"", "0"}:
            traceback.print_exc()
        name = next((a for a in arguments if a in COMMANDS), "")
        line, code = explain(error, name)
        sys.stderr.write(f"{' '.join(line.split())}\n")
        return code


def _prepare_streams() -> None:
    """Puts something in place of streams that were closed, and lets a console show ``?`` for a character that it lacks.

    The next file to be opened would take the number of a closed stream, and get what C code writes there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def explain(error: Exception, name: str) -> tuple[str, int]:
    """The line that tells the user of ``whit {name}`` what went wrong and what to do, and the exit code."""
    command = f"whit {name}".rstrip()
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else command
        return f"{path}: {error.format_message().removesuffix('.')}. See: {path} --help", error.exit_code
    if isinstance(error, click.ClickException):
        return f"{command}: {error.format_message()}", error.exit_code
    missing = (error.name or "whit").partition(".")[0] if isinstance(error, ModuleNotFoundError) else "whit"
    if missing != "whit" and name in COMMANDS:
        extras = EXTRA_OF_LIBRARY.get(missing, COMMANDS[name].extras)
        noun = "extras" if "," in extras else "extra"
        return f"{command} needs the {extras.replace(',', ' and ')} {noun}: pip install 'whit[{extras}]'", 2
    if _is_option_error(error):
        return f"{command}: {_in_words_of_flags(error, name)}. See: {command} --help", 2
    if _is_expected(error):  # before OSError, which some of them are too
        return f"{command}: {_in_words_of_flags(error, name)}", 1
    if isinstance(error, OSError) and error.filename and error.strerror:
        todo = "free some space there" if error.errno in _FULL else "check the path and its permissions"
        return f"{command}: {error.filename}: {error.strerror}; {todo}", 1
    if isinstance(error, OSError):
        return f"{command}: {error}", 1
    return f"{command}: internal error: {type(error).__name__}: {error} (WHIT_DEBUG=1 shows the traceback)", 1


def _is_expected(error: Exception) -> bool:
    return any(_is_a(error, module, name) for module, name in EXPECTED_ERRORS)


def _is_option_error(error: Exception) -> TypeGuard[OptionError]:
    return _is_a(error, "whit.export.errors", "OptionError")


def _is_a(error: Exception, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(error, kind)


def _in_words_of_flags(error: Exception, name: str) -> str:
    if _is_a(error, "whit.client", "WhitError"):
        from whit.cli.remote import why  # the client is loaded, so this costs nothing

        words = why(error)
        return f"the text {words}" if words.startswith(("has ", "is ")) else words
    if not _is_about_options(error):
        return str(error)
    flags = _flags(name)
    if _is_option_error(error):
        return f"{flags.get(error.option, error.option)} {_with_flags(error.fault, flags)}"
    return _with_flags(str(error), flags)


def _is_about_options(error: Exception) -> bool:
    """Whether its words are those of the Python functions behind the command, and not of a recipe, a manifest or a request."""
    kinds = (("whit.export.errors", "CheckpointError"), ("whit.export.evaluate.data", "EvaluationError"))
    return any(_is_a(error, *kind) for kind in kinds) and not _is_a(error, "whit.export.recipe.parse", "RecipeError")


def _flags(name: str) -> Mapping[str, str]:
    """The flags of ``whit {name}``, by the name that each option has in Python."""
    command = group.get_command(click.Context(group), name)
    options = [option for option in command.params if isinstance(option, click.Option)] if command else []
    return {str(option.name): max(option.opts, key=len) for option in options}


def _with_flags(message: str, flags: Mapping[str, str]) -> str:
    """A message about the options of a Python function as one about those of the command: ``max_loss`` is ``--max-loss``.

    Only where a name has several words: one word may be just that.
    """
    return re.sub(
        r"(?<![\w./'\"-])[a-z0-9]+(?:_[a-z0-9]+)+(?![\w/'\"]|\.\w)", lambda name: flags.get(name[0], name[0]), message
    )
