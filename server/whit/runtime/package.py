"""Opens a package directory: everything that can be wrong with it is found here, before any memory is spent on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from whit.contract.manifest import Manifest, PackageError, check_files, read_manifest
from whit.runtime.machine import instruction_sets


@dataclass(frozen=True, slots=True)
class Package:
    """A checked package directory."""

    directory: Path
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.directory.iterdir() if path.is_file())


def open_package(directory: Path | str) -> Package:
    """Reads the manifest, proves the checksums of all files and that this machine can run the package.

    Raises:
        PackageError: missing, altered, from a newer format, or for another instruction set or target. The message names
            the file and says what to do.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    check_files(directory, manifest)
    if manifest.target != "cpu":
        raise PackageError(
            f"{directory} is compiled for target {manifest.target!r}, this whit runs 'cpu'; export it for cpu"
        )
    have = instruction_sets()
    if manifest.instruction_set != "any" and manifest.instruction_set not in have:
        raise PackageError(
            f"{directory} needs a CPU with {manifest.instruction_set}, this one has {', '.join(sorted(have)) or 'none known'}; "
            "export the package on this machine, or without an instruction-set assumption"
        )
    return Package(directory, manifest)
