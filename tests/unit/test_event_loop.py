"""The server's event loop is uvloop's where there is one."""

import asyncio
import importlib
import sys

import pytest

from whit.server import event_loop


async def loop_module():
    return type(asyncio.get_running_loop()).__module__


def test_uvloop_is_used_where_it_is_installed():
    pytest.importorskip("uvloop")
    assert event_loop.run_async(loop_module()).startswith("uvloop")


def test_asyncio_takes_its_place_where_it_is_not(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "uvloop", None)
        importlib.reload(event_loop)
        assert event_loop.run_async(loop_module()).startswith("asyncio")
    importlib.reload(event_loop)
