"""Files to passages: what ``whit index`` stores. Reads .txt, .md and .jsonl; knows no server.

A passage is small enough for a model to read whole. Without the model's tokenizer that can only be guessed, so the limit
is in characters; the server still counts tokens and says what it had to cut. Ids are ``path#n``, so that indexing a file
again writes over what it wrote before. Bad lines are yielded as ``BadLine`` and reading goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUFFIXES = (".txt", ".md", ".jsonl")
ID_BYTE_COUNT = 256  # the server's limit for a point id
_METADATA_DEPTH = 32
_LARGEST_EXACT_INTEGER = 2**53
_ID_ROOM = 12  # for "#" and the passage number

_PARAGRAPH_END = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?。])\s+")
_WORD_END = re.compile(r"\s+")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)\s*")


@dataclass(frozen=True, slots=True)
class Passage:
    """One point to be: ``source`` is ``file:line`` of its first line, for messages."""

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A part of a file that was left out, and why."""

    source: str
    why: str


Found = Iterator[Passage | BadLine]


def find_files(paths: list[Path]) -> Iterator[Path]:
    """The files to read: each file as given, each directory's .txt, .md and .jsonl files, recursively and by name.

    Hidden files and directories inside a directory are left out, and what is no file (pipes, which would be waited for). A
    directory that cannot be read is given itself, so that reading it says why.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        unreadable: list[OSError] = []
        for parent, directories, names in os.walk(path, onerror=unreadable.append):
            directories[:] = sorted(name for name in directories if not name.startswith("."))
            yield from (
                Path(parent) / name
                for name in sorted(names)
                if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
                if not _is_special(Path(parent) / name)
            )
        yield from (Path(error.filename) for error in unreadable)


def _is_special(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # gone, or a link to nothing: reading it says so
        return False


def read_passages(path: Path, character_count: int) -> Found:
    """The passages of one file, in order; those of .txt and .md have at most ``character_count`` characters.

    Raises:
        OSError: the file cannot be read.
    """
    match path.suffix.lower():
        case ".jsonl":
            return _read_jsonl(path)
        case ".md":
            return _read_markdown(path, character_count)
        case _:
            return _read_text(path, character_count)


def id_stem(path: Path) -> str:
    """What the ids of a file's passages start with: its path with forward slashes, or a digest of one that is too long."""
    name = Path(os.path.normpath(path)).as_posix()
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) <= ID_BYTE_COUNT - _ID_ROOM and is_text(name):
        return name
    return "sha256:" + hashlib.sha256(encoded).hexdigest()


def split_text(text: str, character_count: int) -> Iterator[str]:
    """Cuts ``text`` into pieces of at most ``character_count`` characters, each as it stands in ``text``.

    The cut is at the last end of a paragraph that leaves no small piece, else of a sentence, else of a word, else anywhere.
    """
    start = 0
    while len(text) - start > character_count:
        window = text[start : start + character_count + 1]
        end, following = character_count, character_count
        for boundary, least in (
            (_PARAGRAPH_END, character_count // 3),
            (_SENTENCE_END, character_count // 3),
            (_WORD_END, 1),
        ):
            gaps = [m for m in boundary.finditer(window) if max(least, 1) <= m.start() <= character_count]
            if gaps:
                end, following = gaps[-1].start(), gaps[-1].end()
                break
        if piece := window[:end].strip():
            yield piece
        start += following
    if piece := text[start:].strip():
        yield piece


# --- .txt: paragraphs -------------------------------------------------------------------------------------------------


def _read_text(path: Path, character_count: int) -> Found:
    number, stem = 0, id_stem(path)
    for block in _paragraphs(_read_file(path)):
        if isinstance(block, BadLine):
            yield block
            continue
        for piece in split_text(block.text, character_count):
            number += 1
            yield Passage(f"{stem}#{number}", piece, {"file": stem, "line": block.line}, f"{path}:{block.line}")


@dataclass(frozen=True, slots=True)
class _Block:
    """A paragraph, list, table or fenced block, and the headings above it."""

    line: int
    text: str
    headings: tuple[str, ...] = ()


def _paragraphs(lines: Iterator[tuple[int, str] | BadLine]) -> Iterator[_Block | BadLine]:
    gathered: list[str] = []
    first = 0
    for entry in lines:
        if isinstance(entry, BadLine):
            yield entry
            continue
        number, line = entry
        if line.strip():
            first = first if gathered else number
            gathered.append(line.strip())
        elif gathered:
            yield _Block(first, "\n".join(gathered))
            gathered = []
    if gathered:
        yield _Block(first, "\n".join(gathered))


# --- .md: sections, then as many whole blocks as fit ------------------------------------------------------------------


def _read_markdown(path: Path, character_count: int) -> Found:
    number, stem = 0, id_stem(path)
    pending: list[_Block] = []

    def flush() -> Iterator[Passage]:
        nonlocal number
        if not pending:
            return
        first = pending[0]
        heading = " > ".join(h for h in first.headings if h)
        # The headings say what a passage is about, often in words that it does not repeat.
        room = max(character_count - len(heading) - 2, character_count // 2)
        for piece in split_text("\n\n".join(block.text for block in pending), room):
            number += 1
            text = f"{heading}\n\n{piece}" if heading else piece
            metadata = {"file": stem, "line": first.line, "heading": heading}
            yield Passage(f"{stem}#{number}", text, metadata, f"{path}:{first.line}")
        pending.clear()

    for block in _markdown_blocks(_read_file(path)):
        if isinstance(block, BadLine):
            yield block
            continue
        length = sum(len(b.text) + 2 for b in pending) + len(block.text) + len(" > ".join(block.headings)) + 2
        if pending and (block.headings != pending[0].headings or length > character_count):
            yield from flush()
        pending.append(block)
    yield from flush()


def _markdown_blocks(lines: Iterator[tuple[int, str] | BadLine]) -> Iterator[_Block | BadLine]:
    reader = _MarkdownReader()
    for entry in lines:
        if isinstance(entry, BadLine):
            yield entry
        else:
            yield from reader.feed(*entry)
    yield from reader.finish()


class _MarkdownReader:
    """Just enough Markdown to find headings and the ends of blocks; a fence is one block whatever is in it."""

    def __init__(self) -> None:
        self.headings: list[str] = []
        self.gathered: list[str] = []
        self.first = 0
        self.fence = ""
        self.front_matter: list[tuple[int, str]] | None = None

    def feed(self, number: int, line: str) -> Iterator[_Block]:
        if self.front_matter is not None:
            self.front_matter.append((number, line))
            if line.rstrip() in {"---", "..."}:
                self.front_matter = None
        elif number == 1 and line.rstrip() == "---":
            self.front_matter = []
        elif self.fence:
            self._gather(number, line)
            if line.strip().startswith(self.fence) and not line.strip().strip(self.fence[0]):
                self.fence = ""
                yield from self.end()
        elif opened := _FENCE.match(line):
            yield from self.end()
            self.fence = opened[1]
            self._gather(number, line)
        elif heading := _HEADING.fullmatch(line):
            yield from self.end()
            self._set_heading(len(heading[1]), heading[2] or "")
        elif self.gathered and len(self.gathered) == 1 and (underline := _UNDERLINE.fullmatch(line)):
            title = self.gathered.pop()
            self._set_heading(1 if underline[1][0] == "=" else 2, title.strip())
        elif line.strip():
            self._gather(number, line)
        else:
            yield from self.end()

    def end(self) -> Iterator[_Block]:
        """The block gathered so far, if any."""
        if self.gathered:
            yield _Block(self.first, "\n".join(self.gathered), tuple(self.headings))
            self.gathered = []

    def finish(self) -> Iterator[_Block]:
        """What is left at the end of the file. A first line ``---`` that nothing closed was a rule, not front matter."""
        unclosed, self.front_matter = self.front_matter or [], None
        for number, line in unclosed:
            yield from self.feed(number, line)
        yield from self.end()

    def _gather(self, number: int, line: str) -> None:
        if not self.gathered:
            self.first = number
        self.gathered.append(line.rstrip())

    def _set_heading(self, level: int, title: str) -> None:
        kept = self.headings[: level - 1]
        self.headings = [*kept, *[""] * (level - 1 - len(kept)), title]


# --- .jsonl: one point a line -----------------------------------------------------------------------------------------


def _read_jsonl(path: Path) -> Found:
    stem = id_stem(path)
    for entry in _read_file(path):
        if isinstance(entry, BadLine):
            yield entry
            continue
        number, line = entry
        if line.strip():
            yield _parse_point(line, f"{stem}#{number}", f"{path}:{number}")


def _parse_point(line: str, default_id: str, source: str) -> Passage | BadLine:
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return BadLine(source, f"not JSON ({error})")
    if not isinstance(value, dict):
        return BadLine(source, 'not a JSON object; write {"id": "…", "text": "…"} on each line')
    text, point_id = value.pop("text", None), value.pop("id", default_id)
    if isinstance(value.get("metadata"), dict):  # as "whit search --json" writes it
        value = {**value.pop("metadata"), **value}
    if not isinstance(text, str) or not text.strip():
        return BadLine(source, "text must be a non-empty string")
    if isinstance(point_id, int) and not isinstance(point_id, bool):
        point_id = str(point_id)
    if not isinstance(point_id, str) or not point_id:
        return BadLine(source, "id must be a non-empty string or an integer")
    if len(point_id.encode("utf-8", "replace")) > ID_BYTE_COUNT:
        return BadLine(source, f"id has more than {ID_BYTE_COUNT} bytes")
    if why := _why_not_metadata(value):
        return BadLine(source, why)
    if not is_text(point_id + text + json.dumps(value, ensure_ascii=False)):
        return BadLine(source, "holds half of a surrogate pair (such as \\ud800), which is not text")
    return Passage(point_id, text, value, source)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _why_not_metadata(value: object, depth: int = 1) -> str:
    """Why the server could not keep ``value`` as it is (numbers travel as float64), or "" if it can."""
    if depth > _METADATA_DEPTH:
        return f"metadata is nested deeper than {_METADATA_DEPTH} levels"
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) <= _LARGEST_EXACT_INTEGER:
        if isinstance(value, int) or not math.isfinite(value):
            return f"number {str(value)[:40]} does not fit a float64 exactly; write it as a string"
        return ""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((why for item in items if (why := _why_not_metadata(item, depth + 1))), "")


# --- lines ------------------------------------------------------------------------------------------------------------


def read_lines(file: Iterable[bytes], name: str) -> Iterator[tuple[int, str] | BadLine]:
    """Lines without their ends, numbered from 1; a line that is not UTF-8 becomes a ``BadLine`` with source ``name:number``."""
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
            if line.startswith(b"\x1f\x8b"):  # and so would be every other line
                yield BadLine(name, "compressed with gzip; unpack it first")
                return
        try:
            yield number, line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield BadLine(f"{name}:{number}", f"not UTF-8 (byte {error.start + 1}: {error.reason}); line left out")


def _read_file(path: Path) -> Iterator[tuple[int, str] | BadLine]:
    with path.open("rb") as file:
        yield from read_lines(file, str(path))


def is_text(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8: it holds no half of a surrogate pair, such as an undecodable argument gives."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
