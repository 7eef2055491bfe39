"""EmbeddingService: batches of texts or token ids to vectors, one call or a stream of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from whit.contract.errors import FieldViolation, Problem, Reason, to_status
from whit.contract.names import parse_model_name
from whit.contract.vectors import EncodedVectors, Encoding, FloatMatrix, encode
from whit.server.engine import Embedded, Engine, ItemOutcome, Lane, LoadedModel, Timing
from whit.server.engine.problems import bad_item
from whit.server.engine.reading import layer_count_refusal
from whit.server.engine.types import EmbedSpec
from whit.server.errors import refusal
from whit.server.service import checks
from whit.server.service.backend import Backend
from whit.server.service.convert import encoding_of, fill_batch, truncates
from whit.server.service.rpc import Call, Stream
from whit.server.service.streams import Turn, answer_stream
from whit.v1 import embedding_pb2

_INSTRUCTION_BYTE_COUNT = 4096
_ENCODE_ON_LOOP_VALUES = 16_384
_KEPT_PLAN_COUNT = 256
_KEPT_OPTIONS_BYTE_COUNT = (
    8192  # the longest instruction has half of them; fields that this version does not know may have any number
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``EmbedOptions``, checked against a loaded model.

    Attributes:
        prompt_field: where the prompt was given, "" if there is none.
        fits_codes: vectors are encoded by fitting codes to them, which takes a millisecond for one.
    """

    model: LoadedModel
    spec: EmbedSpec
    encodings: Sequence[Encoding]
    prompt_field: str
    fits_codes: bool


def read_options(options: embedding_pb2.EmbedOptions, engine: Engine, at: str) -> Plan:
    """Checks the options of a call or stream; ``at`` is their path in the request.

    Raises:
        ServiceError: MODEL_NOT_FOUND, or INVALID_REQUEST with every bad field.
    """
    violations = checks.Violations()
    model_id = violations.read(f"{at}.model", lambda: parse_model_name(options.model), "")
    truncate = violations.read(f"{at}.on_overflow", lambda: truncates(options.on_overflow), False)
    encodings = _read_encodings(options.encodings, violations, f"{at}.encodings")
    if len(options.instruction.encode()) > _INSTRUCTION_BYTE_COUNT:
        violations.add(f"{at}.instruction", f"may have {_INSTRUCTION_BYTE_COUNT} bytes of UTF-8; use a shorter one")
    if not model_id:
        violations.check()
    model = engine.model(model_id)
    full = model.manifest.dimension_count
    if not 0 <= options.dimension_count <= full:
        description = (
            f"must be 1 to {full}, the dimensions of model {model.id!r}, or 0 for all; got {options.dimension_count}"
        )
        violations.add(f"{at}.dimension_count", description)
    layers_refused = layer_count_refusal(model, options.layer_count)
    if layers_refused:
        violations.add(f"{at}.layer_count", layers_refused)
    normalize = options.normalize if options.HasField("normalize") else True
    if not normalize and model.manifest.normalized:
        description = f"model {model.id!r} gives vectors of length 1 only; leave normalize out or set it to true"
        violations.add(f"{at}.normalize", description)
    prompt = options.instruction
    if options.role:
        prompt = violations.read(f"{at}.role", lambda: prompt_of(model, options.role), "")
    violations.check()
    spec = EmbedSpec(
        prompt=prompt,
        dimension_count=options.dimension_count or None,
        layer_count=options.layer_count,
        normalize=normalize,
        truncate=truncate,
    )
    prompt_field = f"{at}.{options.WhichOneof('prompt')}" if prompt else ""
    return Plan(model, spec, encodings, prompt_field, fits_codes=any(encoding.bits for encoding in encodings))


class Plans:
    """The plans of unary calls, kept by the bytes of their options: most clients send the same with every call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept = lru_cache(_KEPT_PLAN_COUNT)(self._read)

    def of(self, options: embedding_pb2.EmbedOptions) -> Plan:
        """The plan for these options. Raises as ``read_options``, and keeps nothing then."""
        data = options.SerializeToString()
        return self._kept(data) if len(data) <= _KEPT_OPTIONS_BYTE_COUNT else self._read(data)

    def _read(self, options: bytes) -> Plan:
        return read_options(embedding_pb2.EmbedOptions.FromString(options), self._engine, "options")


def prompt_of(model: LoadedModel, role: str) -> str:
    """The prompt of a role.

    Raises:
        ValueError: the package has no such role; the message is the description of a violation.
    """
    prompts = model.manifest.prompts
    if role not in prompts:
        wanted = f"one of {', '.join(sorted(prompts))}" if prompts else "left out"
        has = "has these prompts" if prompts else "has no prompts"
        raise ValueError(f"must be {wanted}, for the package of model {model.id!r} {has}; got {role[:80]!r}")
    return prompts[role]


def unfit_texts(descriptions: Mapping[int, str], path: Callable[[int], str]) -> dict[int, Problem]:
    """What to tell of texts whose vectors a collection cannot use: of words that a static package has no values for, say.

    Args:
        descriptions: of ``CollectionHandle.unfit_vectors``, by row.
        path: of the text of a row.
    """
    return {
        row: bad_item(Reason.INVALID_VECTOR, path(row), f"gives a vector that {description}; send other text")
        for row, description in descriptions.items()
    }


class EmbeddingService:
    """Turns texts into vectors."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._plans = Plans(backend.engine)

    async def embed(self, request: embedding_pb2.EmbedRequest, call: Call) -> embedding_pb2.EmbedResponse:
        """One batch."""
        plan = self._plans.of(request.options)
        texts, token_ids = request.texts, request.token_ids
        if texts and token_ids:
            raise refusal([FieldViolation("token_ids", "cannot be given beside texts; send two requests")])
        field = "token_ids" if token_ids else "texts"
        checks.batch_size(len(texts) or len(token_ids), self._backend.config.batch_item_count, field, field)
        if token_ids and plan.prompt_field:
            description = "cannot be put before token ids; tokenise it with the text"
            raise refusal([FieldViolation(plan.prompt_field, description)])
        items = [item.ids for item in token_ids] if token_ids else list(texts)
        embedded = await self._run(field, items, plan, call, Lane.INTERACTIVE, wait=False, path=field)
        response = embedding_pb2.EmbedResponse(model_fingerprint=plan.model.fingerprint)
        _fill(response, embedded, await self._encoded(embedded, plan))
        return response

    async def stream_embed(self, stream: Stream) -> None:
        """Batch after batch."""
        call = stream.call

        async def configure(config: embedding_pb2.EmbedOptions) -> Plan:
            return read_options(config, self._backend.engine, "config")

        async def answer(
            plan: Plan, batch: embedding_pb2.StreamEmbedBatch, _: Turn
        ) -> embedding_pb2.StreamEmbedResponse:
            items = batch.items
            checks.batch_size(len(items), self._backend.config.batch_item_count, "batch.items", "items")
            embedded = await self._embed_items(plan, items, call)
            response = embedding_pb2.StreamEmbedResponse(
                ids=[item.id for item in items], model_fingerprint=plan.model.fingerprint
            )
            _fill(response, embedded, await self._encoded(embedded, plan))
            return response

        def refuse(problem: Problem) -> embedding_pb2.StreamEmbedResponse:
            return embedding_pb2.StreamEmbedResponse(status=to_status(problem))

        window = self._backend.config.stream_window_count
        await answer_stream(stream, window=window, configure=configure, answer=answer, refuse=refuse)

    async def _embed_items(self, plan: Plan, items: Sequence[embedding_pb2.StreamEmbedItem], call: Call) -> Embedded:
        """Embeds a batch in which each item is a text, token ids, or bad."""
        problems = {row: problem for row, item in enumerate(items) if (problem := _item_problem(item, row, plan))}
        kinds = ["" if row in problems else item.WhichOneof("input") for row, item in enumerate(items)]
        path = "batch.items"
        found: list[tuple[str, Embedded]] = []
        # Items that are not of the kind go as empty ones, which the engine refuses: so that every row keeps its place.
        if "text" in kinds or "token_ids" not in kinds:
            texts = [item.text if kind == "text" else "" for item, kind in zip(items, kinds, strict=True)]
            found.append(("text", await self._run("texts", texts, plan, call, Lane.BULK, wait=True, path=path)))
        if "token_ids" in kinds:
            sequences = [item.token_ids.ids if k == "token_ids" else () for item, k in zip(items, kinds, strict=True)]
            embedded = await self._run("token_ids", sequences, plan, call, Lane.BULK, wait=True, path=path)
            found.append(("token_ids", embedded))
        return _merged(found, kinds, problems)

    def _run(
        self, kind: str, items: Sequence[Any], plan: Plan, call: Call, lane: Lane, *, wait: bool, path: str
    ) -> Awaitable[Embedded]:
        """Embeds items that are all ``texts`` or all ``token_ids``; ``path`` is where they are in the request."""
        engine, spec = self._backend.engine, plan.spec
        embed: Callable[..., Awaitable[Embedded]] = engine.embed_texts
        if kind == "token_ids":
            embed, spec = engine.embed_token_ids, replace(spec, prompt="")  # which can only be put before texts
        return embed(
            plan.model.id, items, spec, lane=lane, deadline=call.deadline, flow=call.flow, wait=wait, field=path
        )

    async def _encoded(self, embedded: Embedded, plan: Plan) -> list[EncodedVectors]:
        vectors, encodings = embedded.vectors, plan.encodings
        if plan.fits_codes or vectors.size * len(encodings) > _ENCODE_ON_LOOP_VALUES:
            return await self._backend.run(True, _encode_all, vectors, encodings)
        return _encode_all(vectors, encodings)


def _encode_all(vectors: FloatMatrix, encodings: Sequence[Encoding]) -> list[EncodedVectors]:
    return [encode(vectors, encoding) for encoding in encodings]


def _fill(
    response: embedding_pb2.EmbedResponse | embedding_pb2.StreamEmbedResponse,
    embedded: Embedded,
    encoded: Sequence[EncodedVectors],
) -> None:
    """Writes what was found in its place: a message that is put into another one is copied."""
    for matrix in encoded:
        fill_batch(response.vectors.add(), matrix)
    for item in embedded.items:
        told = response.items.add(
            token_count=item.token_count, used_token_count=item.used_token_count, truncated=item.truncated
        )
        if item.problem is not None:
            told.status.CopyFrom(to_status(item.problem))
    timing = response.timing
    timing.queue_time_us, timing.tokenize_time_us, timing.infer_time_us = embedded.timing


def _read_encodings(numbers: Sequence[int], violations: checks.Violations, field: str) -> list[Encoding]:
    if len(numbers) > len(Encoding):  # said once: a message holds millions of them
        violations.add(field, f"has {len(numbers)} encodings, there are {len(Encoding)}; give each once at most")
        return [Encoding.FLOAT32]
    encodings: list[Encoding] = []
    for i, number in enumerate(numbers):
        encoding = violations.read(f"{field}[{i}]", partial(encoding_of, number), None)
        if encoding in encodings:
            violations.add(f"{field}[{i}]", f"asks for {encoding.name} a second time; give each encoding once")
        elif encoding is not None:
            encodings.append(encoding)
    return encodings or [Encoding.FLOAT32]


def _item_problem(item: embedding_pb2.StreamEmbedItem, row: int, plan: Plan) -> Problem | None:
    path = f"batch.items[{row}]"
    if len(item.id.encode()) > checks.ID_BYTE_COUNT:
        return bad_item(
            Reason.INVALID_REQUEST, f"{path}.id", f"may have {checks.ID_BYTE_COUNT} bytes of UTF-8; use a shorter id"
        )
    kind = item.WhichOneof("input")
    if kind is None:
        return bad_item(Reason.INVALID_REQUEST, path, "has neither text nor token_ids; set one")
    if kind == "token_ids" and plan.prompt_field:
        description = (
            f"has token ids, but {plan.prompt_field} can only be put before texts; open another stream for them"
        )
        return bad_item(Reason.INVALID_REQUEST, path, description)
    return None


def _merged(
    found: Sequence[tuple[str, Embedded]], kinds: Sequence[str | None], problems: dict[int, Problem]
) -> Embedded:
    kind, first = found[0]
    if len(found) == 1 and not problems:
        return first
    vectors, items = first.vectors, list(first.items)
    if len(found) == 2:
        kind, second = found[1]
        rows = np.array([k == kind for k in kinds])
        vectors = np.where(rows[:, None], second.vectors, vectors)
        items = [b if k == kind else a for a, b, k in zip(items, second.items, kinds, strict=True)]
    for row, problem in problems.items():
        items[row] = ItemOutcome(0, 0, truncated=False, problem=problem)
    timings = [embedded.timing for _, embedded in found]
    timing = Timing(
        max(t.queue_time_us for t in timings),
        sum(t.tokenize_time_us for t in timings),
        sum(t.infer_time_us for t in timings),
    )
    return Embedded(vectors, items, timing)
