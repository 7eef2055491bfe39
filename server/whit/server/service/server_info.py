"""ServerService: what a client needs to know before it sends work."""

from __future__ import annotations

import time
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version

from whit.contract.manifest import CPU
from whit.server.engine import MemoryGovernor, Pressure
from whit.server.service import models
from whit.server.service.backend import Backend
from whit.server.service.rpc import Call
from whit.v1 import server_pb2

_PRESSURES = {
    Pressure.NONE: server_pb2.MEMORY_PRESSURE_NONE,
    Pressure.HIGH: server_pb2.MEMORY_PRESSURE_HIGH,
    Pressure.CRITICAL: server_pb2.MEMORY_PRESSURE_CRITICAL,
}


class ServerService:
    """Describes the server."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def get_server_info(
        self, _request: server_pb2.GetServerInfoRequest, _: Call
    ) -> server_pb2.GetServerInfoResponse:
        """Version, limits, providers, models, uptime."""
        backend, config = self._backend, self._backend.config
        response = server_pb2.GetServerInfoResponse(
            version=whit_version(),
            limits=server_pb2.Limits(
                batch_item_count=config.batch_item_count,
                text_byte_count=config.text_byte_count,
                message_byte_count=config.message_byte_count,
                metadata_byte_count=config.metadata_byte_count,
                search_hit_count=config.search_hit_count,
                queue_token_count=config.queue_token_count,
                stream_window_count=config.stream_window_count,
            ),
            providers=_providers(backend),
            models=models.describe_all(models.sorted_models(backend), backend),
            worker_count=backend.worker_count,
            memory=_memory(backend.engine.memory),
        )
        response.uptime.FromTimedelta(timedelta(seconds=time.monotonic() - backend.start_time))
        return response


def _providers(backend: Backend) -> list[str]:
    """Those of onnxruntime; none where no model needs it, so that no call is the first to load it."""
    if all(model.encoder.provider != CPU for model in backend.engine.models.values()):
        return []
    import onnxruntime  # loaded long ago, with the models

    return list(onnxruntime.get_available_providers())


def _memory(governor: MemoryGovernor) -> server_pb2.Memory | None:
    found = governor.memory
    if found is None:
        return None
    return server_pb2.Memory(
        limit_byte_count=found.limit_bytes,
        used_byte_count=found.used_bytes,
        pressure=_PRESSURES[governor.pressure],
        refused_count=governor.refused_count,
    )


def whit_version() -> str:
    """The installed version, or ``unknown`` where whit runs from a bare source tree."""
    try:
        return version("whit")
    except PackageNotFoundError:
        return "unknown"
