"""Real servers for tests: in this process, on a free port, over packages compiled from tiny random checkpoints.

``async with running_server_for_tests(tmp_path) as server`` runs one on the test's own event loop;
``with server_thread(data_dir) as address`` runs one in a thread, for tests and clients that are synchronous.
"""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support.tiny import write_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.server.app import RunningServer, running_server
from whit.server.config import Config, build_config

PROMPTS = {"query": "find: ", "document": "text: "}
DIMENSION_COUNT = 32
MAX_TOKEN_COUNT = 64


def tiny_package(
    name: str = "tiny", *, dtype: str = "float32", prompts: bool = True, normalize: bool = True, seed: int = 0
) -> Path:
    """A compiled package with 32 dimensions that reads 64 tokens; compiled once in a process and removed at its end.

    Args:
        name: the model's id.
        dtype: float32 or int8.
        prompts: whether it has the roles of ``PROMPTS``.
        normalize: whether its graph ends in normalisation.
        seed: of the weights; another seed gives another fingerprint.
    """
    return _compiled(name, dtype, prompts, normalize, seed)


@asynccontextmanager
async def running_server_for_tests(
    tmp_path: Path, *, models: Sequence[Path] | None = None, **config_overrides: object
) -> AsyncIterator[RunningServer]:
    """A server with its data in ``tmp_path / "data"``; by default it serves ``tiny_package()``. Two workers."""
    async with running_server(config_for_tests(tmp_path / "data", models=models, **config_overrides)) as server:
        yield server


def rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Vectors for points that have no text: float32 [count, DIMENSION_COUNT]."""
    return np.random.default_rng(seed).standard_normal((count, DIMENSION_COUNT)).astype(np.float32)


@contextmanager
def server_thread(data_dir: Path, *, models: Sequence[Path] | None = None, **overrides: object) -> Iterator[str]:
    """A server in a thread, with its data in ``data_dir``; gives its address. Leaving the block drains and stops it."""
    thread = _ServerThread(config_for_tests(data_dir, models=models, **overrides))
    thread.start()
    try:
        yield thread.address()
    finally:
        thread.stop()


def config_for_tests(data_dir: Path, *, models: Sequence[Path] | None = None, **overrides: object) -> Config:
    """A configuration on a free port of 127.0.0.1; ``overrides`` are fields of ``Config``."""
    flags: dict[str, object] = {
        "models": [tiny_package()] if models is None else list(models),
        "data": data_dir,
        "listen": "127.0.0.1:0",
        "worker_count": 2,
        "drain_timeout_s": 10.0,
    }
    return build_config(flags | overrides, {})


class _ServerThread(threading.Thread):
    def __init__(self, config: Config) -> None:
        super().__init__(name="test-server")
        self._config = config
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._address = ""
        self._error: BaseException | None = None

    def address(self) -> str:
        """Waits until the server answers."""
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self._address

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  (raised again in the test's thread)
            self._error = error
        finally:
            self._ready.set()

    def stop(self) -> None:
        """Drains the server and joins the thread; an error in it is raised here."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self.join()
        if self._error is not None:
            raise self._error

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        async with running_server(self._config) as server:
            self._loop = asyncio.get_running_loop()
            self._address = server.address
            self._ready.set()
            await self._stopping.wait()


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="whit-test-packages-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def _compiled(name: str, dtype: str, prompts: bool, normalize: bool, seed: int) -> Path:
    folder = _folder() / f"{name}-{dtype}-{prompts}-{normalize}-{seed}"
    checkpoint = write_checkpoint(
        folder / "checkpoint", prompts=PROMPTS if prompts else None, normalize=normalize, seed=seed
    )
    out = folder / "package"
    compile_checkpoint(checkpoint, out, ExportOptions(dtype=dtype, name=name))
    return out
