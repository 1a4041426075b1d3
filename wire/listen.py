"""Where a program of ours listens: host and port, and whether only this machine reaches them. Pure."""

from __future__ import annotations

import ipaddress


def host_and_port(key: str, listen: str) -> tuple[str, int]:
    """Return the host and the port that a key's value names; port 0 lets the system choose. Raises ValueError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"`{key}` = {listen!r} is not host:port, such as 127.0.0.1:1883 or [::1]:1883")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a host; a name other than localhost may lead anywhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
