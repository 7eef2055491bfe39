"""Under which licence a checkpoint may be passed on: what its model card says, and the files that say it in full."""

from __future__ import annotations

import re
from pathlib import Path


def read_license(folder: Path) -> tuple[str, list[Path]]:
    """The licence's name, and its files in ``folder``."""
    files = sorted(
        path
        for path in folder.iterdir()
        if re.match(r"(LICEN[CS]E|NOTICE|COPYING)", path.name, re.IGNORECASE) and path.is_file()
    )
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8-sig", errors="replace") if readme.is_file() else ""
    front = re.match(r"---\n(.*?)^---", text, re.DOTALL | re.MULTILINE)
    match = re.search(r"^license:[ \t]*[\"']?([^\s\"'#]+)", front[1], re.MULTILINE) if front else None
    return (match[1] if match else "see licence file" if files else "unknown"), files
