"""What a device loads: only what the operator's key, which it has known since it enrolled, vouches for."""

from edge.identity import Identity
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.errors import BundleError
from ravan.rpc.vouching import is_signed_bundle


def require_signed_bundle(identity: Identity | None, task: pb.Task) -> None:
    """Refuses a task whose bundle the operator did not sign; without an identity the server is this very machine's.

    Raises:
        BundleError: nothing of it is fetched or opened.
    """
    bundle_id = task.binding.bundle_id
    if identity is not None and not is_signed_bundle(identity.operator, task.bundle_signature, bundle_id):
        raise BundleError(
            f"The operator's key did not sign bundle {bundle_id[:12]}, so it is not loaded: ask the operator whether "
            "the server is still theirs, or enroll again if they have a new key."
        )
