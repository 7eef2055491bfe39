"""ModelService: the packages this server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from whit.contract.names import model_name
from whit.server.engine import Costs, LoadedModel
from whit.server.service import checks
from whit.server.service.backend import Backend
from whit.server.service.rpc import Call
from whit.v1 import model_pb2

if TYPE_CHECKING:
    from whit.runtime.verify import Verification  # at run time it would bring onnxruntime along


class ModelService:
    """Lists, describes and verifies the loaded models."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._turn = asyncio.Lock()  # a verification is work; one at a time is enough
        self._verifying: dict[str, asyncio.Task[Verification]] = {}  # by model id

    async def list_models(self, request: model_pb2.ListModelsRequest, _: Call) -> model_pb2.ListModelsResponse:
        """The loaded models, by name."""
        found, token = checks.page(
            sorted_models(self._backend), lambda model: model.id, request.page_size, request.page_token
        )
        return model_pb2.ListModelsResponse(models=describe_all(found, self._backend), next_page_token=token)

    async def get_model(self, request: model_pb2.GetModelRequest, _: Call) -> model_pb2.GetModelResponse:
        """One model."""
        model = self._backend.engine.model(checks.model_id(request.name, "name"))
        return model_pb2.GetModelResponse(model=describe_all([model], self._backend)[0])

    async def verify_model(self, request: model_pb2.VerifyModelRequest, _: Call) -> model_pb2.VerifyModelResponse:
        """Recomputes the golden vectors now, or waits for whoever does so already: calls at the same time share the work."""
        model = self._backend.engine.model(checks.model_id(request.name, "name"))
        task = self._verifying.get(model.id)
        if task is None:
            task = self._verifying[model.id] = asyncio.create_task(self._verify(model))
            task.add_done_callback(_retrieve)
        # What runs in a thread goes on without its caller: so do the task and its turn, for later calls to wait on.
        found = await asyncio.shield(task)
        return model_pb2.VerifyModelResponse(
            verified=found.verified,
            text_count=found.text_count,
            max_abs_difference=found.max_abs_difference,
            min_cosine=found.min_cosine,
            tolerance=found.tolerance,
        )

    async def _verify(self, model: LoadedModel) -> Verification:
        try:
            async with self._turn:
                return await self._backend.run(True, model.verify)
        finally:
            del self._verifying[model.id]


def _retrieve(task: asyncio.Task[Verification]) -> None:
    """Hears how a task ended in place of callers who have all gone, or asyncio would log a failure of its own."""
    if not task.cancelled():
        task.exception()


def sorted_models(backend: Backend) -> list[LoadedModel]:
    """The loaded models by name."""
    return sorted(backend.engine.models.values(), key=lambda model: model.id)


def describe_all(models: Sequence[LoadedModel], backend: Backend) -> list[model_pb2.Model]:
    """Models as they travel, each with what it costs now."""
    costs = backend.engine.statistics().costs
    return [_describe(model, costs.get(model.id)) for model in models]


def _describe(model: LoadedModel, costs: Costs | None) -> model_pb2.Model:
    manifest = model.manifest
    return model_pb2.Model(
        name=model_name(model.id),
        fingerprint=model.fingerprint,
        architecture=manifest.architecture,
        dimension_count=manifest.dimension_count,
        matryoshka_dimension_counts=manifest.matryoshka_dimension_counts,
        max_token_count=manifest.max_token_count,
        pooling=manifest.pooling,
        prompts=manifest.prompts,
        dtype=manifest.dtype,
        provider=model.encoder.provider,
        verified=model.verified,
        size_bytes=model.size_bytes,
        layer_counts=manifest.layer_counts,
        costs=None if costs is None else _describe_costs(costs),
    )


def _describe_costs(costs: Costs) -> model_pb2.ModelCosts:
    return model_pb2.ModelCosts(
        run_time_us=1e6 * costs.run_s,
        token_time_us=1e6 * costs.token_s,
        cell_time_us=1e6 * costs.cell_s,
        run_count=costs.run_count,
        relative_error=costs.relative_error,
    )
