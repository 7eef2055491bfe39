"""The refusals of the engine, in words: each names the field and the limit and says what to do next."""

from __future__ import annotations

from collections.abc import Iterable

from whit.contract.errors import FieldViolation, Problem, Reason
from whit.server.engine.jobs import MicroBatch
from whit.server.engine.lone import Loan

_RETRY_AFTER_SHUTDOWN_S = 1.0


def bad_item(reason: Reason, field: str, description: str) -> Problem:
    """An item that cannot be embedded; ``field`` is its path in the request, such as ``texts[3]``."""
    return Problem(reason, f"{field}: {description}", (FieldViolation(field, description),))


def bad_option(field: str, description: str) -> Problem:
    """An option of a call that cannot be honoured, so that the whole call is refused."""
    return Problem(Reason.INVALID_REQUEST, f"{field}: {description}", (FieldViolation(field, description),))


def model_not_found(model_id: str, loaded: Iterable[str]) -> Problem:
    """No such package in this server."""
    names = ", ".join(sorted(loaded)) or "none"
    return Problem(
        Reason.MODEL_NOT_FOUND,
        f"model {model_id!r} is not loaded; loaded: {names}. Ask for one of these, or start the server with its package",
        metadata={"model": model_id},
    )


def queue_full(model_id: str, waiting_tokens: int, bound_tokens: int, retry_after_s: float) -> Problem:
    """Too much work is waiting already."""
    return Problem(
        Reason.QUEUE_FULL,
        f"model {model_id!r} has {waiting_tokens} tokens waiting of at most {bound_tokens} (queue_token_count); "
        f"send the call again after {retry_after_s:.2f} s, or in smaller batches",
        metadata={"model": model_id, "queue_token_count": str(bound_tokens)},
        retry_after_s=retry_after_s,
    )


def deadline_exceeded() -> Problem:
    """The caller's deadline passed first."""
    return Problem(
        Reason.DEADLINE_EXCEEDED,
        "the deadline passed before the call was done; work not yet started was dropped. "
        "Give the call more time, or send smaller batches",
    )


def deadline_hopeless(needed_s: float, left_s: float) -> Problem:
    """By prediction the caller's deadline would pass first."""
    return Problem(
        Reason.DEADLINE_EXCEEDED,
        f"the call may take {needed_s:.2f} s from now but its deadline is in {left_s:.2f} s, so none of what was left "
        "of it was started. Give the call more time, or send smaller batches",
    )


def shutting_down() -> Problem:
    """The engine takes no more work."""
    return Problem(
        Reason.SHUTTING_DOWN,
        "the server is shutting down and takes no more work; send the call to another server or again later",
        retry_after_s=_RETRY_AFTER_SHUTDOWN_S,
    )


def micro_batch_failed(run: MicroBatch | Loan) -> Problem:
    """The model, or the worker, broke on a micro-batch; the log has the traceback under the same number."""
    return Problem(
        Reason.INTERNAL,
        f"model {run.model_id!r} failed on micro-batch {run.number}; the server's log has the traceback under that number",
        metadata={"model": run.model_id, "micro_batch": str(run.number)},
    )


def memory_low(used_bytes: int, limit_bytes: int, retry_after_s: float) -> Problem:
    """The process would be killed if it took much more."""
    return Problem(
        Reason.MEMORY_LOW,
        f"the server has {used_bytes >> 20} of at most {limit_bytes >> 20} MiB in use, so large and bulk requests are refused; "
        f"send this again after {retry_after_s:.0f} s, or single short texts now",
        metadata={"used_bytes": str(used_bytes), "limit_bytes": str(limit_bytes)},
        retry_after_s=retry_after_s,
    )
