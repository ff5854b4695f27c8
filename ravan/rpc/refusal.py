"""What a failed call says."""

from typing import cast

import grpc

from ravan.rpc.transfer import CODE_KEY


def status_of(error: grpc.RpcError) -> grpc.StatusCode:
    """The gRPC status."""
    return cast(grpc.Call, error).code()


def code_of(error: grpc.RpcError) -> str:
    """The server's own code, empty when the server itself did not refuse."""
    return str(dict(cast(grpc.Call, error).trailing_metadata() or ()).get(CODE_KEY, ""))


def sentence_of(error: grpc.RpcError) -> str:
    """The server's sentence."""
    return cast(grpc.Call, error).details() or f"The server refused: {status_of(error).name}."
