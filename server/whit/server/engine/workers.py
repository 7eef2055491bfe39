"""The threads that run the models: each pulls micro-batches from the scheduler until it stops."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from whit.contract.errors import Problem
from whit.server.engine import problems
from whit.server.engine.jobs import MicroBatch
from whit.server.engine.models import LoadedModel
from whit.server.engine.places import Place, places
from whit.server.engine.scheduler import Scheduler
from whit.server.engine.types import Lane, TokenIds

_logger = logging.getLogger(__name__)

# All of them give way to the event loop, or under overload the answers and refusals that it sends wait for inference and come
# too late. Bulk gives way to interactive work too. More would cost both more where other programs want the same cores: ADR 8.
_NICENESS = 3
_BULK_NICENESS = 7  # on top of the other, which these threads inherit from the worker that starts them


class Workers:
    """``count`` threads over one scheduler, and an express one for interactive work.

    ``on_death`` is called from a thread that ends without having been told to.
    """

    def __init__(
        self,
        models: Mapping[str, LoadedModel],
        scheduler: Scheduler,
        *,
        count: int,
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._models = models
        self._scheduler = scheduler
        self._on_death = on_death
        takes = [scheduler.take] * count + [scheduler.take_express]
        each = [*places(count), Place()]
        # Bulk work of a worker is computed in a thread that gives way to all others. Only that: one that is kept from running
        # must not hold the scheduler's lock, and the interpreter's for as short as can be. It is made when it is needed.
        self._bulk = [
            ThreadPoolExecutor(1, f"whit-bulk-{i}", _settle, (_BULK_NICENESS, place)) for i, place in enumerate(each)
        ]
        # Not daemons: a thread that outlives the engine is a defect that should show.
        self._threads = [
            threading.Thread(target=self._work, args=arguments, name=f"whit-worker-{i}")
            for i, arguments in enumerate(zip(takes, each, self._bulk, strict=True))
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def _run(self, batch: MicroBatch, place: Place, bulk: Executor) -> Problem | None:
        """Runs a micro-batch and writes its vectors; or why there are none, as a model may break."""
        model = self._models[batch.model_id]
        try:
            sequences = [waiting.ids for _, waiting in batch.entries]
            run = partial(run_from, place, model, sequences, batch.layer_count, batch.core_count)
            vectors = bulk.submit(run).result() if batch.lane is Lane.BULK else run()
            for row, (job, waiting) in enumerate(batch.entries):
                job.vectors[waiting.row] = vectors[row]
        except Exception:
            _logger.exception("model %s failed on micro-batch %d", batch.model_id, batch.number)
            return problems.micro_batch_failed(batch)
        if _logger.isEnabledFor(logging.DEBUG):
            _logger.debug("micro-batch", extra={"fields": batch.fields(time.monotonic())})
        return None

    def join(self) -> None:
        """Waits for the threads to end. Blocks while a micro-batch is running; stop the scheduler first."""
        for thread in self._threads:
            thread.join()
        for bulk in self._bulk:
            bulk.shutdown()

    def _work(self, take: Callable[[], MicroBatch | None], place: Place, bulk: Executor) -> None:
        batch: MicroBatch | None = None
        _settle(_NICENESS, place)
        try:
            while (batch := take()) is not None:
                self._scheduler.finish(batch, self._run(batch, place, bulk))
        except BaseException as error:
            _logger.critical("worker %s died", threading.current_thread().name, exc_info=error)
            if batch is not None:
                self._scheduler.finish(batch, problems.micro_batch_failed(batch))
            self._scheduler.stop()
            self._on_death(error)


def run_model(
    model: LoadedModel, sequences: Sequence[TokenIds], layer_count: int, core_count: int
) -> NDArray[np.float32]:
    """Vectors float32 [len(sequences), dimension_count], by the calling thread.

    Raises:
        ValueError: the encoder gives others. It may raise anything itself.
    """
    vectors = model.encoder.run(sequences, layer_count, core_count)
    expected = len(sequences), model.manifest.dimension_count
    if vectors.shape != expected:
        raise ValueError(f"the encoder gave vectors of shape {vectors.shape} instead of {expected}")
    return vectors


def run_from(
    place: Place, model: LoadedModel, sequences: Sequence[TokenIds], layer_count: int, core_count: int
) -> NDArray[np.float32]:
    """As ``run_model``, by a thread that has a place; with several cores the others of them have to be free to it."""
    with place.left() if core_count > 1 else contextlib.nullcontext():
        return run_model(model, sequences, layer_count, core_count)


def _settle(niceness: int, place: Place) -> None:
    """Has the calling thread take its place, and give way to less nice ones that want the same core."""
    place.take()
    if sys.platform == "linux":  # elsewhere a priority is that of the whole process
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + niceness)
