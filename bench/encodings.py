"""Output encodings: what retrieval keeps of float32's nDCG@10 when documents are stored in fewer bytes.

python -m bench.encodings [PACKAGE] [--split test] [--collection cranfield] [--rotate 1] [--out bench/results/encodings.json]

Documents are encoded by ``whit.contract``, queries are float32 as the server's search has them; binary is compared bit by bit.
Int8 is measured twice, the second time with the scores of the server's own index.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import collection, require
from bench.machine import describe
from bench.peers.report import write_table
from bench.reference import reference_package
from whit.contract.vectors import Encoding, encode
from whit.export.evaluate.codes import RESCORED, Code, search
from whit.export.evaluate.metrics import DEPTH, FloatMatrix, ndcg_by_query
from whit.export.evaluate.model import DOCUMENT, QUERY, Model
from whit.export.evaluate.outcome import Outcome, compare, retained
from whit.export.rotation import rotation
from whit.server.index.scoring import best, make_block, score

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench" / "results" / "encodings.json"
Ranking = np.ndarray[Any, np.dtype[np.intp]]

# Share of float32's nDCG@10 that each must keep, in %.
TARGETS = {"int8": 99.7, "int8, the server's index": 99.7, "4bit": 99, "3bit": 99, "2bit": 99, "binary+rescore": 97}


def measure(package: Path, name: str, split: str, rotate: int = 0) -> dict[str, Any]:
    """One row for each way of keeping documents, against float32 on the same queries; turned as by the step ``rotate`` if asked."""
    model, data = Model(package, threads=2), collection(name, split)
    documents, queries = model.embed(data.documents, role=DOCUMENT), model.embed(data.queries, role=QUERY)
    if rotate:
        turn = rotation(documents[::rotate])
        documents, queries = documents @ turn, queries @ turn
    mean = documents.mean(axis=0, dtype=np.float64).astype(np.float32)
    whole = search(documents, queries, Code.FLOAT32)
    base = Outcome(ndcg_by_query(whole, data.judgements))
    rows = []
    for title, (row_bytes, find) in _ways(documents, queries, mean).items():
        found = find()
        outcome = Outcome(ndcg_by_query(found, data.judgements))
        share, bounds = retained(outcome, base)
        row = {
            "encoding": title,
            "row_bytes": row_bytes,
            "ndcg_at_10": outcome.score,
            "kept": share,
            "kept_bounds": [bounds.low, bounds.high],
            "same_10": 100
            * float(np.mean([len(np.intersect1d(a, b)) / DEPTH for a, b in zip(found, whole, strict=True)])),
            "p": compare(outcome, base).p,
        }
        target = TARGETS.get(title.removesuffix(", centred"))
        if target is not None:
            row |= {"target": target, "reached": share >= target}
        rows.append(row)
    return {
        "collection": name,
        "split": split,
        "query_count": len(queries),
        "document_count": len(documents),
        "rows": rows,
    }


def _ways(
    documents: FloatMatrix, queries: FloatMatrix, mean: FloatMatrix
) -> Mapping[str, tuple[int, Callable[[], Ranking]]]:
    """Each way's bytes a document and its search."""
    dimension_count = documents.shape[1]

    def way(
        code: Code, centre: FloatMatrix | None = None, rescored: int = RESCORED
    ) -> tuple[int, Callable[[], Ranking]]:
        return code.row_bytes(dimension_count), lambda: search(documents, queries, code, centre, rescored=rescored)

    ways = {str(code): way(code) for code in Code}
    ways["int8, the server's index"] = (dimension_count, lambda: _server_search(documents, queries))
    ways |= {
        f"{code}, centred": way(code, mean)
        for code in (Code.BITS_4, Code.BITS_3, Code.BITS_2, Code.BINARY, Code.BINARY_RESCORED)
    }
    ways |= {f"binary+rescore, {m} candidates a result": way(Code.BINARY_RESCORED, None, m) for m in (2, 4, 16)}
    return ways


def _server_search(documents: FloatMatrix, queries: FloatMatrix) -> Ranking:
    """Rankings with the stored rows and the scores of ``whit.server.index``, which keeps int8 codes without their scales."""
    data = encode(documents, Encoding.INT8).data
    size = Encoding.INT8.row_bytes(documents.shape[1])
    rows = [(i, f"{i:09}", data[i * size : (i + 1) * size]) for i in range(len(documents))]
    block = make_block(rows, Encoding.INT8, documents.shape[1])
    everything = np.arange(len(block))
    return np.array([[c.key for c in best(score(block, everything, query), DEPTH)] for query in queries])


def markdown(content: Mapping[str, Any]) -> str:
    """The table of one collection."""
    lines = [
        "| documents kept as | bytes | nDCG@10 | kept, % of float32 | 95 % interval | target | same top 10, % |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in content["rows"]:
        kept = f"{row['kept']:.1f}"
        low, high = row["kept_bounds"]
        cells = [
            row["encoding"],
            str(row["row_bytes"]),
            f"{row['ndcg_at_10']:.2f}",
            f"**{kept}**" if row.get("reached") else kept,
            f"{low:.1f} to {high:.1f}",
            f"≥ {row['target']:g}" if "target" in row else "",
            f"{row['same_10']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    where = f"{content['collection'].capitalize()}, {content['split']}: {content['document_count']:,} documents, {content['query_count']} queries"
    lines += ["", f"{where}. Intervals: paired bootstrap over queries. **Bold**: the target is reached."]
    return "\n".join(lines)


def main() -> None:
    """Measures, writes, prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", nargs="?", type=Path, help="the reference model in float32, if none is given")
    parser.add_argument("--collection", default="cranfield")
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--rotate", type=int, default=0, help="learn a rotation from every N-th document first")
    parser.add_argument(
        "--out", type=Path, help="bench/results/encodings.json also renews the table in docs/encodings.md"
    )
    arguments = parser.parse_args()
    require()
    found = {
        "command": f"python -m bench.encodings --split {arguments.split}"
        + (f" --rotate {arguments.rotate}" if arguments.rotate else ""),
        "machine": describe(),
        **measure(
            arguments.package or reference_package("float32"), arguments.collection, arguments.split, arguments.rotate
        ),
    }
    print(markdown(found))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        if arguments.out.resolve() == RESULT:
            write_table(markdown(found), ROOT / "docs" / "encodings.md", "encodings")


if __name__ == "__main__":
    main()
