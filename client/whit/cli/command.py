"""What every command's help has: an example and the exit codes. Knows click and nothing of whit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

EXIT_CODES: Mapping[int, str] = {
    0: "ok",
    1: "failed: one line on stderr says why",
    2: "wrong usage, or an extra is missing",
    130: "interrupted",
}

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Number = TypeVar("_Number")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout instead of a table.")


class Failure(click.ClickException):
    """The command failed (exit code 1). The message is one sentence that says what to do next."""

    exit_code = 1


class WhitCommand(click.Command):
    """A command whose help ends with examples (whole command lines) and exit codes.

    ``sections`` gives options of long lists a heading: heading -> names of parameters. All others are under "Options".
    """

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str],
        exit_codes: Mapping[int, str],
        sections: Mapping[str, Sequence[str]],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.exit_codes = dict(exit_codes)
        self.sections = dict(sections)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options under their headings, in the order in which they were declared."""
        heading_of = {name: heading for heading, names in self.sections.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {"Options": [], **{heading: [] for heading in self.sections}}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                rows[heading_of.get(parameter.name or "", "Options")].append(record)
        for heading, records in rows.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the examples, unwrapped so that they can be copied, and the exit codes."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")
        write_exit_codes(formatter, self.exit_codes)


def command(
    name: str,
    *,
    examples: Sequence[str],
    exit_codes: Mapping[int, str] | None = None,
    sections: Mapping[str, Sequence[str]] | None = None,
) -> Callable[[_Function], WhitCommand]:
    """Makes a function the command ``whit NAME``. ``exit_codes`` replaces the usual meaning of single codes.

    ``sections``: as ``WhitCommand`` has them.
    """
    codes = {**EXIT_CODES, **(exit_codes or {})}
    return click.command(
        name,
        cls=WhitCommand,
        examples=examples,
        exit_codes=codes,
        sections=sections or {},
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
    )


def write_exit_codes(formatter: click.HelpFormatter, exit_codes: Mapping[int, str]) -> None:
    """Writes the section that documents the exit codes."""
    with formatter.section("Exit codes"):
        formatter.write_dl([(str(code), meaning) for code, meaning in exit_codes.items()])


class Utf8(click.types.StringParamType):
    """Text that can be sent; an argument that is not UTF-8 comes with halves of surrogate pairs in it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuses what is not UTF-8."""
        found = super().convert(value, param, ctx)
        if any("\ud800" <= character <= "\udfff" for character in found):
            self.fail("it is not UTF-8.", param, ctx)
        return found


class Count(click.IntRange):
    """A whole number from 1 to what the wire can carry."""

    _LIMIT = 2**31 - 1

    def __init__(self) -> None:
        super().__init__(min=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuses what is larger."""
        found = super().convert(value, param, ctx)
        if found > self._LIMIT:
            self.fail(f"{found} is more than {self._LIMIT:,}.", param, ctx)
        return found


class Amount(click.FloatRange):
    """A number above 0 that is no infinity and not "not a number"."""

    _LIMIT = 1e9

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuses what is larger or no number."""
        found = super().convert(value, param, ctx)
        if not found <= self._LIMIT:
            self.fail(f"{found:g} is not a number up to {self._LIMIT:,.0f}.", param, ctx)
        return found


def numbers(value: str | None) -> tuple[int, ...] | None:
    """Whole numbers separated by commas, as an option gives them; None if it was not given."""
    return None if value is None else _separated(value, int, "whole numbers")


def decimals(value: str | None) -> tuple[float, ...] | None:
    """As ``numbers``, with fractions."""
    return None if value is None else _separated(value, float, "numbers")


def _separated(value: str, kind: Callable[[str], _Number], words: str) -> tuple[_Number, ...]:
    try:
        return tuple(kind(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"give {words} separated by commas, got {value!r}") from None
