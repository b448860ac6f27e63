"""A PostgreSQL that can be cut off: a socket in between that loses requests or answers."""

import asyncio
from pathlib import Path

SOCKET = ".s.PGSQL.5432"


class Proxy:
    """Forwards to the server's socket; `lose` says what becomes of the next data.

    `lose`: "" nothing, "request" what a client says is not passed on and its connection closed,
    "answer" the same with what the server says; either happens once. While `down`, nobody gets in.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        self.folder = folder
        self.lose = ""
        self.down = False
        self.lost = 0
        self._upstream = server / SOCKET
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self.folder / SOCKET)

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Close all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            writer.transport.abort()
            return
        to_reader, to_writer = await asyncio.open_unix_connection(self._upstream)
        self._writers |= {writer, to_writer}
        for source, target, name in (
            (reader, to_writer, "request"),
            (to_reader, writer, "answer"),
        ):
            task = asyncio.ensure_future(self._pump(source, target, name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, name: str
    ) -> None:
        try:
            while data := await source.read(65_536):
                if self.lose == name:
                    self.lose = ""
                    self.lost += 1
                    self.cut()
                    return
                target.write(data)
        except ConnectionError:
            pass
        finally:
            target.close()
            self._writers.discard(target)
