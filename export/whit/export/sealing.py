"""The end of every compile: golden vectors, report and manifest, the proof that they hold, and the move to where it belongs."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from whit.contract.manifest import GOLDEN_FILE, MANIFEST_FILE, REPORT_FILE, sha256_of
from whit.contract.names import MODEL_ID_RULE, model_name, parse_model_name
from whit.export.errors import CheckpointError, OptionError
from whit.runtime.opening import open_encoder, open_tokenizer
from whit.runtime.package import Package, open_package
from whit.runtime.verify import verify

GOLDEN_TEXTS = (
    "a",
    "How do I undo the last commit?",
    "The aircraft's lift-to-drag ratio falls as the angle of attack grows past the stall.",
    "Ein kurzer Satz, une phrase courte, 短い文。",
    "def add(a: int, b: int) -> int: return a + b  # 42, 3.14, 1e-9",
    "WARNING!!! Battery at 7 %; shut down before 18:30 (UTC+2).",
    "Small machines run close to the people who use them. " * 6,
    "Every reading was written down twice, once by hand and once by the recorder, and the two were compared. "
    * 30,  # beyond every limit: cut, it fills the attention grid
)


def check_name(name: str) -> None:
    """Refuses a name that a model cannot be served under.

    Raises:
        CheckpointError: it is none.
    """
    try:
        parse_model_name(model_name(name))
    except ValueError:
        raise OptionError("name", f"must be {MODEL_ID_RULE}, got {name!r}") from None


def name_from(folder: str) -> str:
    """A name that a model can be served under, as near to a folder's name as that allows."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", folder).strip("-._")[:128] or "model"


def check_out(out: Path) -> None:
    """Refuses to replace what is not a package.

    Raises:
        CheckpointError: something else is there, or the command runs in it.
    """
    check_not_here(out)
    if out.exists() and not (out / MANIFEST_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists and is not a package; choose another --out or remove it")


def check_not_here(out: Path) -> None:
    """Refuses to replace the folder that the command runs in, or one around it: the shell would be left in the old one.

    Raises:
        CheckpointError: it is one.
    """
    if Path.cwd().is_relative_to(out.resolve()):
        raise CheckpointError(f"{out} is where the command runs, and would be replaced; choose another --out")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: BaseException) -> bool:
    """Whether a write failed for lack of space; safetensors and shutil, which copies folders, say so in words alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return any(f"{words} {number}" in str(error) for number in _FULL for words in ("os error", "[Errno"))


def why(error: BaseException) -> str:
    """Why a write failed, in a few words."""
    return "the disk is full" if is_full(error) else str(getattr(error, "strerror", None) or error)


@contextmanager
def scratch_beside(out: Path) -> Iterator[Path]:
    """A directory on the same file system as ``out``, removed at the end.

    Raises:
        CheckpointError: nothing can be written there, or the disk is full before all is written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-")
    except OSError as error:
        raise CheckpointError(
            f"{out} cannot be written ({error.strerror} in {out.parent}); choose another --out"
        ) from None
    with scratch:
        try:
            yield Path(scratch.name)
        except (OSError, SafetensorError) as error:
            if not is_full(error):
                raise
            raise CheckpointError(
                f"{out} cannot be written: the disk is full; free space or choose another --out"
            ) from None


def tokenize(package: Package, texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Token ids of each text, cut to what the package reads."""
    tokenizer = open_tokenizer(package)
    return [tokenizer.cut(ids, package.manifest.max_token_count) for ids in tokenizer.encode(texts)]


def seal(package: Package, report: Mapping[str, Any]) -> None:
    """Adds golden vectors, report and manifest: from here on the directory is a package. Proves that it is.

    Raises:
        CheckpointError: it does not reproduce its own golden vectors.
    """
    directory = package.directory
    texts = tokenize(package, GOLDEN_TEXTS)
    # The graph as onnxruntime computes it is what a package means, on machines without our kernels too.
    encoder = open_encoder(package, "onnxruntime")
    vectors = [encoder.run([ids])[0] for ids in texts]
    # repr of a float32 as float64 is exact, so the golden vectors are the vectors.
    golden = [{"text": text, "vector": v.astype(float).tolist()} for text, v in zip(GOLDEN_TEXTS, vectors, strict=True)]
    (directory / GOLDEN_FILE).write_text(json.dumps({"texts": golden}, ensure_ascii=False), encoding="utf-8")
    (directory / REPORT_FILE).write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    sealed = dataclasses.replace(package.manifest, files=file_hashes(directory))
    (directory / MANIFEST_FILE).write_text(sealed.to_json(), encoding="utf-8")
    _check(open_package(directory))


def _check(package: Package) -> None:
    outcome = verify(package, open_tokenizer(package), open_encoder(package))
    if not outcome.verified:
        raise CheckpointError(
            f"the compiled package does not reproduce its own golden vectors (off by {outcome.max_abs_difference:.2g}); "
            "please report this with the checkpoint's config.json"
        )


def publish(new: Path, out: Path) -> None:
    """Moves what is finished to ``out``, in place of what is there, which stays if that fails."""
    old = new.parent / "old"
    try:
        if out.exists():
            out.replace(old)
        new.replace(out)
    except BaseException:  # Ctrl-C, too
        if old.exists() and not out.exists():
            old.replace(out)
        raise


def file_hashes(directory: Path) -> dict[str, str]:
    """What ``Manifest.files`` says of the files in a directory: all but the manifest itself."""
    return {path.name: sha256_of(path) for path in sorted(directory.iterdir()) if path.name != MANIFEST_FILE}
