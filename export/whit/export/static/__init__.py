"""Static students: from a transformer to a table with a row a token, without a graph, without torch.

``make_static`` is the whole way; the result is a package of kind ``static`` (docs/package-format.md), which
``whit.runtime.static`` runs.
"""

from whit.export.static.make import StaticOptions, StaticReport, make_static

__all__ = ["StaticOptions", "StaticReport", "make_static"]
