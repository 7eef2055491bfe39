"""The ``whit`` command. This module only starts it: the base install has neither click nor rich, and must say so."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``whit`` with ``arguments`` (default: those of the process) and returns the exit code.

    0 ok, 1 failed, 2 wrong usage, 130 interrupted. Never raises for an expected failure: that is one line on stderr.
    """
    try:
        from whit.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        sys.stderr.write("whit: the command line needs the cli extra: pip install 'whit[cli]'\n")
        return 2
    return run(sys.argv[1:] if arguments is None else list(arguments))
