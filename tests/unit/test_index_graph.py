"""Graph: what it writes has the size that usearch foretells, by which a file that was cut short is known."""

import numpy as np
import pytest

from whit.server.index.graph import Graph


@pytest.mark.parametrize("count", [0, 1, 400])
@pytest.mark.parametrize("dimension_count", [1, 3, 384])
def test_a_graph_on_disk_has_the_size_that_usearch_foretells(tmp_path, count, dimension_count):
    graph = Graph(dimension_count)
    if count:
        vectors = np.random.default_rng(0).standard_normal((count, dimension_count)).astype(np.float32)
        graph.add(np.arange(1, count + 1), vectors)
    graph.save(tmp_path / "graph")  # or it raises
    assert (tmp_path / "graph").stat().st_size == graph._index.serialized_length
