"""The proof a device shows to register: it knows the app's access key."""

import hashlib
import hmac

from protocol.codes import ACCESS_KEY_CONTEXT


def registration_proof(
    access_key: str, app: str, installation_id: bytes, time_ms: int, nonce: bytes
) -> bytes:
    """HMAC-SHA256 (RFC 2104) under the access key's UTF-8 bytes, 32 bytes.

    Input: context, 0x00, app, 0x00, installation id (16 bytes), time_ms (8 bytes, big endian),
    nonce (16 bytes). All parts but the app have a fixed length, so no two inputs look alike.
    """
    signed = b"".join(
        (
            ACCESS_KEY_CONTEXT,
            b"\0",
            app.encode(),
            b"\0",
            installation_id,
            time_ms.to_bytes(8, "big"),
            nonce,
        )
    )
    return hmac.new(access_key.encode(), signed, hashlib.sha256).digest()
