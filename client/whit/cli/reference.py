"""Writes docs/cli.md, the help of every command: ``python -m whit.cli.reference > docs/cli.md``.

A test compares the committed page with what this writes, so that the page cannot drift from the program.
"""

from __future__ import annotations

import sys

import click

from whit.cli.app import COMMANDS, group

# Fixed, so that the page does not depend on the terminal that it was made in.
WIDTH = 100

INTRODUCTION = """\
# The command line

Made from the program's own help by `python -m whit.cli.reference > docs/cli.md`; do not edit.

This page has the `--help` of every command, in the order in which a model is made, served and used. Commands need
*extras* of the install: `pip install 'whit[cli]'`, or from a clone `pip install '.[cli]'`.

| Extra | Commands |
|---|---|
| `cli` | every command that talks to a server, and `inspect` |
| `server` | `verify`, `serve` |
| `export` | all others that make or score models; `demo`, which needs `server` as well |
| `static` | `static` |
| `train` | `distill` |

Results go to stdout, progress and failures to stderr. A failure is one line that says what to do, and an exit code
other than 0; `WHIT_DEBUG=1` adds the traceback. With `--json` stdout holds nothing but JSON.
"""


def reference() -> str:
    """The whole page, Markdown."""
    root = _context(group, "whit", None)
    sections = [INTRODUCTION, _section("whit", group, root)]
    for name in COMMANDS:
        found = group.get_command(root, name)
        assert found is not None
        sections.append(_section(f"whit {name}", found, _context(found, name, root)))
    return "\n".join(sections)


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    return click.Context(command, parent=parent, info_name=name, **settings)


def _section(title: str, command: click.Command, context: click.Context) -> str:
    lines = (line.rstrip() for line in command.get_help(context).strip().splitlines())
    body = "\n".join(lines)
    return f"## {title}\n\n```text\n{body}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
