"""The encoder of a package, whatever its kind. A kind's own libraries are loaded when a package asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whit.contract.manifest import STATIC
from whit.runtime.package import Package

if TYPE_CHECKING:
    from whit.runtime.encoder import Encoder
    from whit.runtime.static import StaticEncoder

    AnyEncoder = Encoder | StaticEncoder


def open_encoder(package: Package) -> AnyEncoder:
    """The encoder of ``package``: a table, or a graph in onnxruntime.

    Raises:
        PackageError: its graph or table cannot be read.
    """
    if package.manifest.kind == STATIC:
        from whit.runtime.static import StaticEncoder

        return StaticEncoder(package)
    from whit.runtime.encoder import Encoder  # brings onnxruntime along

    return Encoder(package)
