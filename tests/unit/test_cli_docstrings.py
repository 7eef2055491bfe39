"""The demo's corpus: docstrings read from source files without running them."""

from pathlib import Path

from whit.cli.docstrings import collect

SOURCE = '''
"""A module about nothing in particular."""
raise SystemExit("must not be run")

def public(x):
    """Return x as it was before."""

def _private():
    """Not something to look up."""

def terse():
    """Too short."""

class Thing:
    """A thing that can be opened."""

    @property
    def state(self):
        """The state of the thing now."""

    @state.setter
    def state(self, value):
        """Set the state of the thing."""

    async def open(self):
        """Open the thing
            and wait for it."""
'''


def tree(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def test_collects_public_docstrings_with_their_names_and_kinds(tmp_path: Path) -> None:
    passages = list(collect(tree(tmp_path, {"pack/__init__.py": "", "pack/mod.py": SOURCE}), 800))
    assert [(p.metadata["object"], p.metadata["kind"]) for p in passages] == [
        ("pack.mod", "module"),
        ("pack.mod.public", "function"),
        ("pack.mod.Thing", "class"),
        ("pack.mod.Thing.state", "method"),
        ("pack.mod.Thing.open", "method"),
    ]
    assert {p.metadata["module"] for p in passages} == {"pack.mod"}
    assert passages[1].text == "pack.mod.public: Return x as it was before."
    assert passages[1].id == "pack.mod.public#1"
    assert passages[3].text == "pack.mod.Thing.state: The state of the thing now."
    assert passages[4].text == "pack.mod.Thing.open: Open the thing\nand wait for it."


def test_package_is_named_without_init(tmp_path: Path) -> None:
    root = tree(tmp_path, {"pack/__init__.py": '"""What the whole package is for."""'})
    assert [p.metadata["object"] for p in collect(root, 800)] == ["pack"]


def test_skips_tests_private_modules_and_what_does_not_parse(tmp_path: Path) -> None:
    doc = '"""A docstring of some words."""'
    root = tree(
        tmp_path,
        {
            "test/mod.py": doc,
            "idlelib/mod.py": doc,
            "site-packages/mod.py": doc,
            "_private.py": doc,
            "broken.py": "def (",
            "bytes.py": b'"""Not \xff UTF-8 in any way."""',
            "nul.py": b'"""With a NUL \x00 byte inside it."""',
            "latin.py": b'# -*- coding: latin-1 -*-\n"""Declared as Latin-1: \xe9."""',
            "escapes.py": '"""An old escape \\d in it."""',
        },
    )
    assert [p.metadata["object"] for p in collect(root, 800)] == ["escapes", "latin"]


def test_long_docstring_becomes_several_passages(tmp_path: Path) -> None:
    root = tree(tmp_path, {"mod.py": '"""' + "Some words here. " * 20 + '"""'})
    passages = list(collect(root, 100))
    assert [p.id for p in passages] == [f"mod#{n}" for n in range(1, len(passages) + 1)]
    assert len(passages) > 3
    assert all(len(p.text) <= 100 for p in passages)
