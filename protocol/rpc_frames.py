"""The frames of the RPC between processes: their kinds, and the heads of their bodies.

    0x21 REQUEST    id (u32 LE), method (u8), body
    0x22 RESPONSE   id (u32 LE), body
    0x23 ERROR      id (u32 LE), error code, ':', text
    0x24 CHALLENGE  16 random bytes, server to client, first frame on TCP
    0x25 PROOF      client: 16 random bytes + HMAC; server: HMAC over both, the other way round

The frames themselves are those of `protocol.frames`, the bodies are columba.rpc messages.
"""

import struct
from enum import IntEnum
from typing import Final

REQUEST: Final = 0x21
RESPONSE: Final = 0x22
ERROR: Final = 0x23
CHALLENGE: Final = 0x24
PROOF: Final = 0x25

REQUEST_HEAD: Final = struct.Struct("<IB")
"""id, method"""
ANSWER_HEAD: Final = struct.Struct("<I")
"""id, of RESPONSE and ERROR"""
MAX_BODY: Final = 16 * 1024 * 1024
"""A deliver with a content of 64 KiB for many devices stays far below; more is a defect."""


class Method(IntEnum):
    DELIVER = 1
    REPLACED = 2
    COUNTS = 3
    DEVICE = 4
    PUSH = 5
    STATS = 6
    AUDIENCE = 7
    TAG = 8
    CUT = 9
    CONTROL = 10
    ACCOUNT = 11
    HOLDER = 12
    LOOKUP = 13
    PERMIT = 14
    LEDGER = 15
    RECALLS = 16
    DEPART = 17
