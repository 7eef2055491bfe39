"""Generated protobuf and gRPC stubs of ``whit.v1``. Regenerate with ``make proto``."""
