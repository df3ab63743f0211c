"""The address to listen on, taken before anything is loaded: a port in use ends the command at once."""

from __future__ import annotations

import socket

from octavo.core.errors import InvalidValue
from octavo.server.config import ServerConfig


def bind(config: ServerConfig) -> socket.socket:
    """A listening socket's address taken; port 0 takes a free one. Raises InvalidValue."""
    sock = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        if sock is not None:
            sock.close()
        where = f"{config.host}:{config.port}"
        raise InvalidValue("port", where, f"an address that is free here ({error.strerror or error})") from None
    return sock
