"""Where a run is: written every so many steps, so that the same command goes on where the last one stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from whit.export.errors import CheckpointError
from whit.export.sealing import why


@dataclass(slots=True)
class Position:
    """How far a run has come."""

    epoch: int = 0
    chunk: int = 0
    batch: int = 0  # within the chunk
    steps: int = 0
    texts: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def state_path(out: Path) -> Path:
    """Where the state of a run is while it goes on: beside its result."""
    return out.with_name(f"{out.name}.training")


class StateFile:
    """The state of one run. One run at a time may write it."""

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        self.path = state_path(out)
        self._identity = json.loads(json.dumps(identity))

    def load(self) -> dict[str, Any] | None:
        """The saved tensors and optimizer, with the ``Position`` under ``position``; None where there is no state.

        Raises:
            CheckpointError: the file belongs to a run with other options, or is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            identity, position = json.loads(state["identity"]), Position(**json.loads(state["position"]))
        except Exception as error:  # torch raises whatever its parts raise, with advice that does not fit here
            raise CheckpointError(f"{self.path} is no state of a run; remove it to begin again") from error
        for name in sorted(self._identity.keys() | identity.keys()):
            before, now = identity.get(name), self._identity.get(name)
            if before != now:
                raise CheckpointError(
                    f"{self.path} belongs to a run with {name} {before!r}, not {now!r}; go on with the same options, "
                    "or remove the file to begin again"
                )
        return state | {"position": position}

    def save(self, position: Position, content: Mapping[str, Any]) -> None:
        """Replaces the state, which is never seen half written."""
        state = {"identity": json.dumps(self._identity), "position": json.dumps(asdict(position)), **content}
        partial = self.path.with_name(f".{self.path.name}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(state, file)
            partial.replace(self.path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            # Of a full disk torch only says at which byte it ended; the reason is behind that.
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            raise CheckpointError(
                f"{self.path} cannot be written ({why(reason)}); free space and run again, or choose another --out"
            ) from None

    def remove(self) -> None:
        """The run is done."""
        self.path.unlink(missing_ok=True)
