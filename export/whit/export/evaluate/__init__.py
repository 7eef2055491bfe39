"""What a package is worth: evaluation sets, their metrics, and how sure the figures are. Runs on numpy alone.

``read_sts``, ``read_retrieval`` and ``read_classification`` read files; the metrics take vectors and give a score.
"""

from whit.export.evaluate.data import (
    Classification,
    EvaluationError,
    Retrieval,
    Sts,
    read_classification,
    read_retrieval,
    read_sts,
)
from whit.export.evaluate.metrics import FloatMatrix, ndcg_at_10, ndcg_by_query, spearman, sts_score

__all__ = [
    "Classification",
    "EvaluationError",
    "FloatMatrix",
    "Retrieval",
    "Sts",
    "ndcg_at_10",
    "ndcg_by_query",
    "read_classification",
    "read_retrieval",
    "read_sts",
    "spearman",
    "sts_score",
]
