"""The daemon: gRPC services over an engine that runs packages and an index that keeps their vectors. See ``app.serve``."""
