"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata

from whit.runtime.machine import cpu_name, instruction_sets

_PACKAGES = ("whit", "numpy", "onnxruntime", "tokenizers", "grpcio", "usearch")


def describe() -> dict[str, object]:
    """Processor, cores, instruction sets, versions, date."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "instruction_sets": sorted(instruction_sets()),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }
