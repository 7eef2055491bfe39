"""The README's Python example runs as it stands, against a real server with the real model."""

import re
from pathlib import Path

import pytest

from tests.support.reference import reference_package
from tests.support.server import server_thread

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.reference
def test_the_python_example_runs_and_answers(tmp_path, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1

    with server_thread(tmp_path, models=[reference_package()]) as address:
        exec(blocks[0].replace("127.0.0.1:7600", address), {})

    lines = capsys.readouterr().out.splitlines()
    assert "all-MiniLM-L6-v2" in lines[0]
    assert lines[1] == "(2, 384) 4 False"
    assert lines[2].startswith("int8 [")
    assert [line.split()[1] for line in lines[-2:]] == ["1", "2"]  # undoing is nearer to git than to boiling water
    assert lines[-2].endswith("git revert undoes a commit {'lang': 'en'}")
