"""Runs a package: token ids in, vectors out. Synchronous and without protobuf; shared by the server and the compiler.

``open_package`` checks the files, ``Tokenizer`` turns text into ids, ``Encoder`` runs the graph, ``verify`` compares with
the golden vectors. Every use of a package goes through here, so what ``whit verify`` proves is what the server runs.
"""

from whit.runtime.encoder import Encoder
from whit.runtime.package import Package, open_package
from whit.runtime.tokenizer import Tokenizer
from whit.runtime.verify import Verification, verify

__all__ = ["Encoder", "Package", "Tokenizer", "Verification", "open_package", "verify"]
