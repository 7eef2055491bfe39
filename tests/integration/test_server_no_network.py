"""No network at run time: a server that has done everything it can do has no socket but those of its own port."""

import os
import queue
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.server import tiny_package
from tests.support.wire import connected, point
from whit.v1 import model_pb2

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="reads sockets as Linux shows them")

# Says so on stderr where Python code looks up a name or connects: also what is over before we look at the sockets.
HOOK = """
import sys

def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.gethostbyname"):
        sys.stderr.write(f"OUTGOING {event} {arguments[1:]}\\n")
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", None):
        sys.stderr.write(f"OUTGOING {event} {arguments}\\n")

sys.addaudithook(hook)
"""
SERVE = HOOK + "from whit.server.__main__ import main\nsys.exit(main())\n"


def local_ports(pid):
    """The local port of every internet socket that a process holds, UDP included, by kind."""
    held = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held.add(str(entry.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    found = []
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        table = Path(f"/proc/{pid}/net/{kind}")
        for line in table.read_text().splitlines()[1:] if table.is_file() else ():
            fields = line.split()
            if f"socket:[{fields[9]}]" in held:
                found.append((kind[:3], int(fields[1].rpartition(":")[2], 16)))
    return found


def test_a_server_opens_no_outgoing_connection(tmp_path):
    environ = os.environ | {
        "WHIT_MODELS": str(tiny_package()),
        "WHIT_DATA": str(tmp_path),
        "WHIT_LISTEN": "127.0.0.1:0",
    }
    lines = queue.Queue()
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stderr])
        reader.start()
        try:
            seen = [lines.get(timeout=60)]
            while "listening on" not in seen[-1]:
                seen.append(lines.get(timeout=60))
            address = re.search(r"listening on (\S+)", seen[-1])[1]
            with connected(address) as wire:
                assert wire.models.VerifyModel(model_pb2.VerifyModelRequest(name="models/tiny")).verified
                assert wire.embed("a", "b").items
                name = wire.new_collection()
                wire.upsert(name, [point("a", "one"), point("b", "two")])
                assert wire.search(name, "one").results[0].hits
                ports = local_ports(process.pid)
        finally:
            process.terminate()
            process.wait()
            reader.join()
    port = int(address.rpartition(":")[2])
    assert len(ports) >= 2  # one that listens, one for the connection of this test
    assert set(ports) == {("tcp", port)}
    assert not [line for line in [*seen, *lines.queue] if line.startswith("OUTGOING")]


def test_the_check_sees_a_connection_and_a_look_up():
    code = HOOK + (
        "import socket\n"
        "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: s.connect(('127.0.0.1', 9))\n"
        "socket.getaddrinfo('localhost', 9)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert [line.split()[1] for line in run.stderr.splitlines()] == ["socket.connect", "socket.getaddrinfo"]
