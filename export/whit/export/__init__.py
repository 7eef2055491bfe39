"""The compiler: a checkpoint folder becomes a package. Needs no torch.

``compile_checkpoint`` is the whole of it; the modules below are its steps: ``checkpoint`` reads, ``families`` names the
weights, ``calibrate`` and ``quantize`` choose integers, ``encoder_graph`` builds the graph, ``report`` says what it cost.
"""

from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.errors import CheckpointError
from whit.export.report import Report

__all__ = ["CheckpointError", "ExportOptions", "Report", "compile_checkpoint"]
