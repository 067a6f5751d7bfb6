"""A TCP proxy that fails on demand: python benchmarks/troubled_proxy.py PORT TARGET_PORT MODE_FILE

MODE_FILE holds one word, read before every piece of data: `healthy`; `refused` (the port is closed, and open
connections end); `silent` (connections are accepted and never answered); `slow` (every answer comes SLOW_S later).
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

SLOW_S = 0.5
LOOK_EVERY_S = 0.05


class Proxy:
    """One listening port of 127.0.0.1 before another."""

    def __init__(self, port: int, target: int, mode_file: Path) -> None:
        self.port, self.target, self.mode_file = port, target, mode_file

    @property
    def mode(self) -> str:
        return self.mode_file.read_text().strip()

    async def run(self) -> None:
        """Listen whenever the mode allows it."""
        server: asyncio.Server | None = None
        while True:
            if self.mode == "refused" and server is not None:
                server.close()
                server = None
            elif self.mode != "refused" and server is None:
                server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
            await asyncio.sleep(LOOK_EVERY_S)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        behind, ahead = await asyncio.open_connection("127.0.0.1", self.target)
        ways = (self.carry(reader, ahead, answers=False), self.carry(behind, writer, answers=True))
        tasks = [asyncio.create_task(way) for way in (*ways, self.until_refused())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for stream in (writer, ahead):
            stream.close()

    async def carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(1 << 16):
            if answers and self.mode == "slow":
                await asyncio.sleep(SLOW_S)
            while self.mode == "silent":
                await asyncio.sleep(LOOK_EVERY_S)
            sink.write(data)
            await sink.drain()

    async def until_refused(self) -> None:
        while self.mode != "refused":
            await asyncio.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    asyncio.run(Proxy(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])).run())
