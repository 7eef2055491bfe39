"""Runs a package: token ids in, vectors out. Synchronous and without protobuf; shared by the server and the compiler.

``open_package`` checks the files, ``open_tokenizer`` gives what turns text into ids, ``open_encoder`` what computes vectors,
a graph or a table, ``verify`` compares with the golden vectors. Every use of a package goes through here, so what ``whit verify``
proves is what the server runs. onnxruntime is loaded with the first graph.
"""

from whit.runtime.opening import open_encoder, open_tokenizer
from whit.runtime.package import Package, open_package
from whit.runtime.tokenizer import Tokenizer
from whit.runtime.verify import Verification, compare, read_golden, verify

__all__ = [
    "Package",
    "Tokenizer",
    "Verification",
    "compare",
    "open_encoder",
    "open_package",
    "open_tokenizer",
    "read_golden",
    "verify",
]
