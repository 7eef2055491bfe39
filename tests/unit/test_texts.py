"""Files of texts, one a line."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from whit.export.texts import read_texts


@pytest.mark.parametrize("name", ["texts.txt", "texts.txt.gz"])
@pytest.mark.parametrize(
    "spell",
    [str.encode, lambda text: text.replace("\n", "\r\n").encode(), lambda text: text.encode("utf-8-sig")],
    ids=["plain", "from Windows", "with a byte order mark"],
)
def test_texts_are_the_same_however_they_were_saved(spell: Callable[[str], bytes], name: str, tmp_path: Path) -> None:
    content = spell("ein Satz\n\n  短い文。 \nlast")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    assert read_texts(tmp_path / name) == ["ein Satz", "短い文。", "last"]
