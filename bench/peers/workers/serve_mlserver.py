"""MLServer over gRPC with the runtime in ``mlserver_runtime`` and its own stubs as the client; no adaptive batching.

Batching is left off: it pads together what it batches, and was slower on mixed texts.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray
from serve_common import ServerUnderLoad, free_ports, serve, start, stop

NAME = "embedder"
LIMITS = [("grpc.max_receive_message_length", 1 << 26), ("grpc.max_send_message_length", 1 << 26)]


class MlServer(ServerUnderLoad):
    """Options: ``model``, an ONNX file with tokenizer.json beside it; ``max_tokens``."""

    def __init__(self, options: dict[str, Any]) -> None:
        http, self._port, metrics = free_ports(3)
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": self._port, "metrics_port": metrics}
        settings |= {"parallel_workers": 0, "debug": False, "grpc_max_message_length": 1 << 26}
        uri = str(Path(options["model"]).absolute())
        model = {"name": NAME, "implementation": "mlserver_runtime.Embedder", "parameters": {"uri": uri}}
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "model-settings.json").write_text(json.dumps(model))
        program = str(Path(sys.executable).with_name("mlserver"))
        self._process = start(
            [program, "start", str(folder)],
            self._port,
            folder,
            PYTHONPATH=str(Path(__file__).parent),
            EMBEDDER_MAX_TOKENS=str(options["max_tokens"]),
        )
        self.process_ids = [self._process.pid]

    async def connect(self) -> None:
        """One channel."""
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{self._port}", LIMITS)
        self._stub = GRPCInferenceServiceStub(self._channel)

    async def ask(self, texts: list[str], timeout_s: float | None) -> NDArray[np.float32]:
        """ModelInfer."""
        tensor = pb.ModelInferRequest.InferInputTensor(name="texts", datatype="BYTES", shape=[len(texts)])
        # Raw in, raw out: its faster form. Each string has its length before it.
        encoded = [text.encode() for text in texts]
        raw = b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
        request = pb.ModelInferRequest(model_name=NAME, inputs=[tensor], raw_input_contents=[raw])
        response = await self._stub.ModelInfer(request, timeout=timeout_s, wait_for_ready=timeout_s is None)
        return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(len(texts), -1)

    async def disconnect(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    def close(self) -> None:
        """SIGTERM."""
        stop(self._process)
        self._folder.cleanup()


serve(MlServer)
