"""Admission, scheduling and the threads that run the models: asyncio on one side, whit.runtime on the other."""

from whit.server.engine.costs import Costs
from whit.server.engine.cpu import usable_core_count
from whit.server.engine.engine import Engine, WorkerDiedError
from whit.server.engine.memory import MemoryGovernor, Pressure
from whit.server.engine.models import LoadedModel
from whit.server.engine.statistics import LaneStatistics, Statistics
from whit.server.engine.types import Embedded, EmbedSpec, Flow, ItemOutcome, Lane, Timing

__all__ = [
    "Costs",
    "EmbedSpec",
    "Embedded",
    "Engine",
    "Flow",
    "ItemOutcome",
    "Lane",
    "LaneStatistics",
    "LoadedModel",
    "MemoryGovernor",
    "Pressure",
    "Statistics",
    "Timing",
    "WorkerDiedError",
    "usable_core_count",
]
