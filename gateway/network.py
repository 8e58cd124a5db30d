"""Addresses as they stand in the configuration."""


class ListenError(Exception):
    """An address that cannot be listened on; the text says what to change."""


def split_address(address: str) -> tuple[str, int]:
    """("127.0.0.1", 7070) from "127.0.0.1:7070", ("::1", 7070) from "[::1]:7070". ListenError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise ListenError(f"{address!r} is no address: write host:port, or [ipv6]:port")
    return host.strip("[]") or "0.0.0.0", int(port)


def is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "localhost")


def check_plaintext(address: str, *, allowed: bool, setting: str) -> None:
    """Plain text beyond loopback must be asked for by name. Raises ListenError."""
    host, _ = split_address(address)
    if not is_loopback(host) and not allowed:
        raise ListenError(
            f"{address} is reachable from other machines and would be in plain text: "
            f"put TLS in front and listen on loopback, or set {setting} = true"
        )
