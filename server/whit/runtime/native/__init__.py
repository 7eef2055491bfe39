"""whit's own kernels: an int8 package's graph, computed by one C function instead of operator by operator.

``program.py`` reads the graph that ``whit.export`` wrote back into a model, ``layout.py`` lays its weights out for the C code
(``encoder.c``), ``library.py`` calls it, ``encoder.py`` is the encoder that the server runs. What the kernels cannot do, or not on
this CPU, stays with onnxruntime (``UnsupportedError`` says why).
"""

from whit.runtime.native.parts import OutdatedError, UnsupportedError

__all__ = ["OutdatedError", "UnsupportedError"]
