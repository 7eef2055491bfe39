"""The page docs/configuration.md, made from the settings: ``python -m whit.server.reference > docs/configuration.md``."""

from __future__ import annotations

import sys
from pathlib import Path

from whit.server.config import ENV_PREFIX, SETTINGS, Setting

_HEAD = f"""# Configuration

This page lists the settings of `whit serve`, and says how its bounds work together, how it stops, how to make backups,
and how to run it on a small machine. Only `--models` is required.

- [How the bounds work together](#how-the-bounds-work-together)
- [Stopping](#stopping)
- [Backups](#backups)
- [For a small machine](#for-a-small-machine)

`whit serve` is told everything by flags and `{ENV_PREFIX}*` variables; there is no file. For each setting the flag
wins, then the variable, then the default; a variable that is set but empty counts as not set. The server logs all of
them when it starts, and refuses to start with a value that cannot be used, naming it.

Sizes are bytes, lengths are tokens, times are seconds: the unit is in the name. Clients read the limits with
`GetServerInfo`, so they need not be told.

<!-- Made by: python -m whit.server.reference > docs/configuration.md -->

"""

_TAIL = """
Lists are written like `PATH` in a variable (`WHIT_MODELS=/srv/small:/srv/large`) and as repeated flags. Switches are
`true` or `false`.

## How the bounds work together

A *unary* call is one request with one answer; a *stream* is one call with many batches. A *micro-batch* is what goes
through a model in one run, with texts of several calls.

- **One model's queue** (`--queue-token-count`). Full, it refuses unary calls with `RESOURCE_EXHAUSTED` and says when to
  come back; streams are not refused but read no further. Streams hold at most half of it, so a bulk load does not shut
  out everybody else. Larger means fewer refusals and longer waits, never more texts a second.
- **One micro-batch** (`--micro-batch-token-count`). Larger runs are a little more efficient and make short requests
  wait behind long ones.
- **One stream** (`--stream-window-count`). More batches at a time hide a slow network; eight is enough for most.
- **All requests together** (`--inflight-byte-count`, `--max-call-count`, `--max-stream-count`) bound the memory that
  clients can take. It must hold the largest message.
- **A stream on which nothing happens** (`--stream-idle-timeout-s`) ends with `STREAM_IDLE`, so that a client that hangs
  keeps neither its place nor what it was to be sent. Waiting for an answer is not idle. `whit.client` opens the stream
  again by itself when its source goes on. Clients that vanished without a word are noticed sooner, by gRPC's keepalive:
  80 s.
- **One request** (`--batch-item-count`, `--text-byte-count`, `--metadata-byte-count`, `--message-byte-count`). A
  request over one of them is refused with the field and the limit.

## Stopping

SIGTERM, SIGINT and SIGHUP (a closed terminal, unless `nohup` says to go on; nothing is read anew) make the server
*drain*:

1. Health turns NOT_SERVING, and no new call is taken.
2. Calls in progress are answered; streams answer what they have read and end with `SHUTTING_DOWN`. After
   `--drain-timeout-s` what is left is cancelled.
3. The search graphs are saved, and the process ends with status 0.

A second signal, half a second later or more, ends the process at once; nothing that was acknowledged is lost by it.

| Status | Meaning |
|---|---|
| 0 | Stopped by a signal |
| 1 | Could not start (a package is refused, the data directory or the address is in use), or a worker thread died; stderr says which |
| 2 | A setting cannot be used |
| 128 + signal | A second signal ended a drain |

## Backups

Each collection is one SQLite database, `DATA/collections/NAME/points.db`; what lies beside it is SQLite's own or can be
made anew. While the server runs, do not copy the file, for its newest part is in another. Have SQLite write a copy
instead, which holds the collection as it was at one moment:

```sh
sqlite3 whit-data/collections/notes/points.db "VACUUM INTO 'notes.db'"    # or with Python's sqlite3: the same statement
```

To restore it, stop the server, and make `DATA/collections/NAME` anew with nothing in it but this file as `points.db`: a
log left from another database would be written into it. The search graph is built again in the background.

With the server stopped, a copy of the whole data directory is a backup, too.

## For a small machine

A server with the int8 reference model takes about 150 MB, most of it the runtime and the model. To bound it further,
lower `--inflight-byte-count` and `--message-byte-count`, and `--batch-item-count` with them. `--worker-count 1` leaves
the other cores to others. With as many workers as cores each keeps to a core of its own; with fewer they go where there is room.

Once a second the server looks how much of its memory is left, in its cgroup (v2 and v1, `memory.high` too), in those
above it and on the machine.

- With less than 15 % of the limit or 256 MiB, whichever is less, what was freed goes back to the system and
  micro-batches get smaller.
- With less than 7 % or 128 MiB, streams are held back for up to ten seconds. What still finds no room, and every unary
  call that is not a short one, is refused with `MEMORY_LOW` and RetryInfo.

Each change is logged once; `whit info` shows it. When there is room again, everything is as before.

`python -m whit.server` is the same server without the command line, for images that have no use for one: it reads the
variables only.
"""


def page() -> str:
    """The whole page."""
    rows = ["| Flag | Variable | Default | What it does |", "|---|---|---|---|", *map(_row, SETTINGS)]
    return _HEAD + "\n".join(rows) + "\n" + _TAIL


def _row(setting: Setting) -> str:
    return f"| `{setting.flag}` | `{setting.variable}` | {_default(setting.default)} | {setting.help} |"


def _default(value: object) -> str:
    match value:
        case ():
            return "required"
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float() | str() | Path():
            return f"`{value}`"
        case _:
            raise TypeError(f"no way to write the default {value!r}")


if __name__ == "__main__":
    sys.stdout.write(page())
