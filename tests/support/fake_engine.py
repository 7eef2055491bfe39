"""An engine over a fake tokenizer and a fake encoder that tests can hold still."""

import asyncio
import threading
import time
from pathlib import Path

import numpy as np

from whit.contract.manifest import REQUIRED_FILES, Manifest
from whit.server.engine import EmbedSpec, Engine, Lane, LoadedModel

DIMENSIONS = 8
MAX_TOKENS = 40
HEAD, TAIL = 1, 2  # special tokens
PATIENCE_S = 10  # how long a test waits for what must happen


class FakePackage:
    directory = Path("fake")

    def __init__(self, *, normalized=False):
        files = dict.fromkeys(REQUIRED_FILES, "sha256:0")
        self.manifest = Manifest(
            "fake", "bert", DIMENSIONS, MAX_TOKENS, 1000, "mean", "float32", files, normalized=normalized
        )


class FakeTokenizer:
    """One token a character."""

    def encode_each(self, texts, check):
        for text in texts:
            check()
            yield ids_of(text)

    def cut(self, ids, max_token_count):
        return np.concatenate([ids[: max_token_count - 1], ids[-1:]])


def ids_of(text):
    return np.array([HEAD, *(ord(c) % 1000 for c in text), TAIL], np.int64)


class FakeEncoder:
    """Notes what it runs. While ``gate`` is clear, it holds every worker; ``started`` counts those that came in."""

    provider = "FakeExecutionProvider"
    unmasked_length = 0
    most_cores = 1

    def __init__(self, *, normalized=False):
        self.normalized = normalized
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.error = None

    def attention_length(self, token_count):
        return -(-token_count // 16) * 16

    def run(self, sequences, layer_count=0, core_count=1):
        self.batches.append([ids.tolist() for ids in sequences])
        self.started.release()
        assert self.gate.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        return np.stack([vector_of(ids, normalized=self.normalized) for ids in sequences])

    @property
    def texts_run(self):
        return ["".join(map(chr, ids[1:-1])) for batch in self.batches for ids in batch]


def vector_of(ids, *, normalized=False):
    vector = np.random.default_rng(np.asarray(ids, np.uint64)).standard_normal(DIMENSIONS).astype(np.float32)
    return vector / np.linalg.norm(vector) if normalized else vector


def expected_for(text):
    return vector_of(ids_of(text))


def make_model(model_id="m", *, normalized=False, encoder=None, is_instant=False):
    package, encoder = FakePackage(normalized=normalized), encoder or FakeEncoder(normalized=normalized)
    return LoadedModel(model_id, package, FakeTokenizer(), encoder, 0, True, lambda: None, is_instant)


def make_engine(*models, workers=1, queue=10_000, budget=64):
    return Engine(
        {model.id: model for model in models},
        worker_count=workers,
        queue_token_count=queue,
        micro_batch_token_count=budget,
        text_byte_count=200,
    )


RAW = EmbedSpec(normalize=False)


async def embed(engine, texts, spec=RAW, *, model="m", deadline=None, wait=False):
    return await engine.embed_texts(model, texts, spec, lane=Lane.INTERACTIVE, deadline=deadline, wait=wait)


async def worker_started(model):
    assert await asyncio.to_thread(model.encoder.started.acquire, timeout=PATIENCE_S)


async def until(condition):
    """Lets the loop run until something is so that has no event of its own."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0)


def tokens_waiting(engine, count):
    return lambda: f"{count} tokens waiting" in repr(engine)


def reason_of(caught):
    return caught.value.problem.reason
