"""Sealed device tokens: what a device shows instead of its app's access key.

AEAD over app number, device id, generation and issue time under a master key with an id, so that
keys rotate and no store read is needed to open one. Layout:

    key id (1)  nonce (12)  AES-256-GCM ciphertext of: version (1) app (2) device (8)
    generation (4) issued, s since the Unix epoch (4)  + tag (16)
"""

import os
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_BODY: Final = struct.Struct(">BHQII")
_VERSION: Final = 1
_NONCE: Final = 12
TOKEN_BYTES: Final = 1 + _NONCE + _BODY.size + 16


class BadToken(Exception):
    """Not one of ours: forged, damaged, or sealed under a key that is gone."""


class Token(NamedTuple):
    """What a token says."""

    app: int
    device: int
    generation: int
    issued_s: int


class Sealer:
    """Seals and opens tokens under the deployment's master keys (32 bytes each, by id 1-255)."""

    def __init__(self, master_keys: Mapping[int, bytes], current: int) -> None:
        self._keys = {key_id: AESGCM(key) for key_id, key in master_keys.items()}
        self._current = current

    def seal(self, token: Token) -> bytes:
        nonce = os.urandom(_NONCE)
        head = bytes((self._current,))
        body = _BODY.pack(_VERSION, *token)
        return head + nonce + self._keys[self._current].encrypt(nonce, body, head)

    def open(self, sealed: bytes) -> Token:
        """Raises BadToken; whether it is too old is the caller's to say."""
        if len(sealed) != TOKEN_BYTES:
            raise BadToken(f"a token has {TOKEN_BYTES} bytes")
        key = self._keys.get(sealed[0])
        if key is None:
            raise BadToken(f"sealed under key {sealed[0]}, which is not in use")
        try:
            body = key.decrypt(sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :], sealed[:1])
        except InvalidTag:
            raise BadToken("the seal is broken") from None
        version, *fields = _BODY.unpack(body)
        if version != _VERSION:
            raise BadToken(f"token version {version}")
        return Token(*fields)
