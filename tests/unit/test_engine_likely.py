"""How many tokens unread items are taken to have, on which a call may be refused before it is read."""

import pytest

from whit.server.engine.reading import likely_token_count


@pytest.mark.parametrize(
    ("items", "count"),
    [
        ([], 0),
        (["four" * 3], 2 + 3),
        (["four", "four" * 9], 3 + 11),
        (["four" * 1000], 256),
        (["four" * 1000, "four"], 256 + 3),
        ([[1, 2, 3]], 3),
        ([[1] * 300, [1]], 256 + 1),
    ],
)
def test_likely_tokens(items, count):
    assert likely_token_count(items, 256) == count
