"""The registration proof, against fixed bytes and against RFC 2104 written out."""

import hashlib

import pytest

from protocol.credentials import registration_proof

KEY = "c0lumba-access-key"
APP = "demo"
INSTALLATION = bytes(range(16))
TIME_MS = 1_767_225_600_000
NONCE = bytes(range(0xF0, 0x100))


def hmac_by_hand(key: bytes, text: bytes) -> bytes:
    """RFC 2104, section 2, for keys of at most one block."""
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + text).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in padded) + inner).digest()


def test_fixed_vector() -> None:
    proof = registration_proof(KEY, APP, INSTALLATION, TIME_MS, NONCE)
    assert proof.hex() == "0de293d73e0c7d721284a25d10c1d8947986abdc1dd0d7f24ee1448969f9a5fb"


def test_input_byte_for_byte() -> None:
    signed = bytes.fromhex(
        "636f6c756d626120726567697374726174696f6e207631"  # columba registration v1
        "00"
        "64656d6f"  # demo
        "00"
        "000102030405060708090a0b0c0d0e0f"
        "0000019b76daa800"  # ms, big endian
        "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
    )
    assert int.from_bytes(bytes.fromhex("0000019b76daa800"), "big") == TIME_MS
    proof = registration_proof(KEY, APP, INSTALLATION, TIME_MS, NONCE)
    assert proof == hmac_by_hand(KEY.encode(), signed)


def test_texts_are_utf_8() -> None:
    proof = registration_proof("schlüssel", "鸽子", INSTALLATION, TIME_MS, NONCE)
    signed = b"columba registration v1\0\xe9\xb8\xbd\xe5\xad\x90\0"
    signed += INSTALLATION + TIME_MS.to_bytes(8, "big") + NONCE
    assert proof == hmac_by_hand(b"schl\xc3\xbcssel", signed)


@pytest.mark.parametrize(
    "other",
    [
        ("other-key", APP, INSTALLATION, TIME_MS, NONCE),
        (KEY, "demo2", INSTALLATION, TIME_MS, NONCE),
        (KEY, APP, bytes(16), TIME_MS, NONCE),
        (KEY, APP, INSTALLATION, TIME_MS + 1, NONCE),
        (KEY, APP, INSTALLATION, TIME_MS, bytes(16)),
    ],
    ids=["key", "app", "installation", "time", "nonce"],
)
def test_every_part_counts(other: tuple[str, str, bytes, int, bytes]) -> None:
    assert registration_proof(*other) != registration_proof(KEY, APP, INSTALLATION, TIME_MS, NONCE)
