"""The JSON files of a checkpoint folder, read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whit.export.errors import CheckpointError


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """The object in a file; an empty one for a file that need not be there.

    Raises:
        CheckpointError: it is missing, no JSON or no object.
    """
    if missing_ok and not path.is_file():
        return {}
    content = _parse_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object; copy the file again")
    return content


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """The list of objects in a file.

    Raises:
        CheckpointError: as ``read_json``.
    """
    content = _parse_json(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise CheckpointError(f"{path} does not hold a JSON list of objects; copy the file again")
    return content


def _parse_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing; give a sentence-transformers or Hugging Face checkpoint folder"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); copy the file again") from None
