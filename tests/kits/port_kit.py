"""Ports for servers that tests start. The kernel gives none of them to another program before the server binds it."""

from __future__ import annotations

import random
import socket

# Above Ray's own ports (to 19999), and below those that Linux hands out (32768 to 60999), which Ray takes by the dozen.
# Linux once gave Ray's metrics endpoint the port of a server that was still starting. The endpoint answers 200 to
# everything, so it passed for that server.
FIRST, LAST = 20_000, 32_000
CHOICE = random.SystemRandom()  # the tests' own generator would choose alike in two processes with one seed


def free_port(host: str = "127.0.0.1") -> int:
    """A port that no program has now."""
    while True:
        port = CHOICE.randint(FIRST, LAST)
        with socket.socket() as listener:
            try:
                listener.bind((host, port))
            except OSError:
                continue
            return port
