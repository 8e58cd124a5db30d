"""The first frame: who this device is, and how it shows that."""

import os
from typing import Final

from client_sdk.state import Installation
from protocol.codes import NONCE_BYTES, VERSION_MAX, VERSION_MIN
from protocol.credentials import registration_proof
from protocol.schema import device_pb2

SDK: Final = "columba-python/0.1.0"

_PERMISSIONS: Final = {
    None: device_pb2.PERMISSION_UNKNOWN,
    True: device_pb2.PERMISSION_GRANTED,
    False: device_pb2.PERMISSION_DENIED,
}


def hello(
    this: Installation, access_key: str, *, now_ms: int, granted: bool | None
) -> device_pb2.Hello:
    """HELLO with the token, or with a request to register while there is none."""
    greeting = device_pb2.Hello(
        version_min=VERSION_MIN,
        version_max=VERSION_MAX,
        app=this.app,
        connection=this.connection,
        config_version=this.config_version,
        permission=_PERMISSIONS[granted],
        sdk=SDK,
    )
    if this.token:
        greeting.token = this.token
        return greeting
    nonce = os.urandom(NONCE_BYTES)
    greeting.registration.CopyFrom(
        device_pb2.Registration(
            installation_id=this.installation_id,
            time_ms=now_ms,
            nonce=nonce,
            proof=registration_proof(access_key, this.app, this.installation_id, now_ms, nonce),
        )
    )
    return greeting
