"""What every step raises where a checkpoint or an option cannot be used."""

from __future__ import annotations


class CheckpointError(Exception):
    """A checkpoint cannot be compiled. The message names the file and says what to do."""


class OptionError(CheckpointError):
    """An option has a value that it cannot have. The message begins with its name, in whose place a command puts its flag."""

    def __init__(self, option: str, fault: str) -> None:
        super().__init__(f"{option} {fault}")
        self.option = option
        self.fault = fault
