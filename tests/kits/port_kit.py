"""Ports for servers that tests start: none that the kernel may give to somebody else before the server takes it."""

from __future__ import annotations

import random
import socket

# Below those that Linux deals out (32768 to 60999), as Ray asks for by the dozen, and above Ray's own (to 19999). A
# metrics port of Ray's, dealt out while a server started, answered 200 to everything and passed for that server.
FIRST, LAST = 20_000, 32_000
CHOICE = random.SystemRandom()  # not the tests' own: two processes with one seed would choose alike


def free_port(host: str = "127.0.0.1") -> int:
    """One that nobody has now."""
    while True:
        port = CHOICE.randint(FIRST, LAST)
        with socket.socket() as listener:
            try:
                listener.bind((host, port))
            except OSError:
                continue
            return port
