"""What a manifest says about its graph, compared with the graph: what is wrong there would fail callers that share a micro-batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from whit.contract.manifest import GRAPH_FILE, MANIFEST_FILE, PackageError
from whit.runtime.native.onnx_file import Node, OnnxGraph, read_graph
from whit.runtime.native.parts import UnsupportedError
from whit.runtime.package import Package


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a graph has. ``depths`` are the numbers of layers it can be run with, the last is all; empty: with all only."""

    token_count: int
    position_count: int
    depths: Sequence[int]


def sizes_of(graph: OnnxGraph) -> Sizes:
    """Reads them off the look-ups of ``whit.export.encoder_graph``, and the comparisons with the layer count asked for.

    Raises:
        UnsupportedError: nothing is looked up by token or position, or in what is no table.
    """
    nodes = list(_all(graph.nodes))
    starts = [n.inputs[1] for n in nodes if n.kind == "Greater" and n.inputs[0] == "layer_count"]
    # One after the embeddings, two in each layer.
    layer_count = sum(n.kind == "LayerNormalization" for n in nodes) // 2
    try:
        depths = [int(graph.constants[name].item()) for name in starts]
        return Sizes(
            _row_count(graph, nodes, "input_ids"),
            _row_count(graph, nodes, "position_ids"),
            (*depths, layer_count) if depths else (),
        )
    except (IndexError, KeyError, TypeError) as error:
        raise UnsupportedError(f"a graph that whit would not write ({error!r})") from None


def sizes_in(path: Path) -> Sizes | None:
    """Those of the graph in a file; None if it cannot be read this way."""
    try:
        return sizes_of(read_graph(path))
    except (OSError, ValueError, UnsupportedError):
        return None


def check_claims(package: Package, sizes: Sizes) -> None:
    """Does nothing if the graph has all that the manifest says.

    Raises:
        PackageError: it has fewer token ids or positions, or other depths.
    """
    manifest = package.manifest
    if manifest.vocabulary_size > sizes.token_count:
        raise _refusal(package, "vocabulary_size", manifest.vocabulary_size, f"has {sizes.token_count} token ids")
    positions = max(0, sizes.position_count - manifest.position_offset)
    if manifest.max_token_count > positions:
        raise _refusal(package, "max_token_count", manifest.max_token_count, f"has positions for {positions} tokens")
    if list(manifest.layer_counts) != list(sizes.depths):
        offered = f"can be run with {list(sizes.depths)} layers" if sizes.depths else "can be run with all layers only"
        raise _refusal(package, "layer_counts", list(manifest.layer_counts), offered)


def _refusal(package: Package, field: str, said: object, found: str) -> PackageError:
    path = package.directory / MANIFEST_FILE
    return PackageError(f"{path}: {field} is {said}, but the graph in {GRAPH_FILE} {found}; export the package again")


def _row_count(graph: OnnxGraph, nodes: Sequence[Node], ids: str) -> int:
    """Rows of the smallest table that ``ids`` are looked up in: a table may be stored in parts."""
    tables = [graph.constants[n.inputs[0]] for n in nodes if n.kind == "Gather" and n.inputs[1] == ids]
    if not tables:
        raise UnsupportedError(f"nothing is looked up by {ids}")
    return min(len(table) for table in tables)


def _all(nodes: Sequence[Node]) -> Iterator[Node]:
    """The nodes and those of their branches."""
    for node in nodes:
        yield node
        for value in node.attributes.values():
            if isinstance(value, list):
                yield from _all(value)
