"""A server that is near its memory limit: what it refuses, what it goes on answering, and that it comes back."""

import time

from tests.support.server import server_thread
from tests.support.wire import connected, point, refused
from whit.contract.errors import Reason
from whit.server.engine import memory
from whit.v1 import server_pb2

MIB = 1 << 20


def test_near_its_limit_it_refuses_bulk_and_large_calls_and_says_when_to_come_back(tmp_path, monkeypatch):
    used = [100]
    monkeypatch.setattr(memory, "read_memory", lambda: memory.Memory(1000 * MIB, used[0] * MIB))
    monkeypatch.setattr(memory, "_INTERVAL_S", 0.01)

    with server_thread(tmp_path) as address, connected(address) as wire:

        def info():
            return wire.info.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=20).memory

        def use(mib, pressure):
            used[0] = mib
            end = time.monotonic() + 20
            while info().pressure != pressure:
                assert time.monotonic() < end, "the server took no notice"

        use(100, server_pb2.MEMORY_PRESSURE_NONE)
        name = wire.new_collection()
        expected = wire.embed(*["a text"] * 50)
        use(960, server_pb2.MEMORY_PRESSURE_CRITICAL)
        for call in (lambda: wire.upsert(name, [point("a", "one")]), lambda: wire.embed(*["a text"] * 50)):
            problem = refused(call)
            assert problem.reason is Reason.MEMORY_LOW
            assert problem.status_code.name == "RESOURCE_EXHAUSTED"
            assert problem.retry_after_s > 0
        assert (info().limit_byte_count, info().used_byte_count, info().refused_count) == (1000 * MIB, 960 * MIB, 2)
        assert wire.embed("a text").vectors[0].data == expected.vectors[0].data[: 4 * 32], "one short text is answered"
        use(100, server_pb2.MEMORY_PRESSURE_NONE)
        assert wire.embed(*["a text"] * 50).vectors == expected.vectors
        wire.upsert(name, [point("a", "one")])
        assert wire.count(name) == 1
