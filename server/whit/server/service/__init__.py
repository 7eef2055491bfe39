"""The gRPC services: protobuf in, engine and index, protobuf out. Nothing is computed here and nothing is kept.

``rpc`` is where every call enters and every error leaves; ``streams`` is the grammar of the streams; the other modules
hold one service each, or the reading and checking of its messages.
"""
