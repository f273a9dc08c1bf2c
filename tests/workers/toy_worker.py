"""A worker that has doors and places and nothing else: real steering between real processes.

    python -m tests.workers.toy_worker SEAT TABLE_FD DOOR_FD RUNTIME BOUND

It answers the first request of each connection with its seat (200) or with why not (503), and keeps
the place until the caller goes. SIGTERM drains: it ends when the last caller has gone.
"""

from __future__ import annotations

import asyncio
import mmap
import signal
import socket
import sys
import time
from pathlib import Path

import uvloop

from flowcatd import log
from flowcatd.options import Calls, Log
from workers.calls import CallTable, NoPlaceError
from workers.door import Door
from workers.hand_over import HandOver, Receivers
from workers.load import LoadTable
from workers.steer import Steering

TICK_SECONDS = 0.1


class ToyWorker:
    """One process."""

    def __init__(self, seat: int, words: memoryview, door_fd: int, runtime: Path) -> None:
        loads = LoadTable(words)
        self.seat = seat
        self.row = loads.row(seat)
        self.table = CallTable(Calls(), self.row, loads)
        steering = Steering(seat, loads, self.table.promise, float(sys.argv[5]), time.monotonic)
        receivers = Receivers(
            lambda sock, passed: self.door.take(sock, passed),  # noqa: PLW0108 the door comes later
            lambda sock, passed: self.door.route(sock, passed),  # noqa: PLW0108 as above
            lambda _data, _source: None,
        )
        self.hand_over = HandOver(runtime, seat, receivers)
        listener = socket.socket(fileno=door_fd)
        self.door = Door(listener, steering.decide, self.serve, self.hand_over.give)
        self.tasks: set[asyncio.Task[None]] = set()

    def serve(self, sock: socket.socket) -> None:
        """Answer it here."""
        task = asyncio.get_running_loop().create_task(self.answer(sock))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def answer(self, sock: socket.socket) -> None:
        """One request, then silence until the caller goes."""
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_recv(sock, 8192)
            try:
                with self.table.place(sock):
                    await loop.sock_sendall(sock, b"200 %d\n" % self.seat)
                    await loop.sock_recv(sock, 1)
            except NoPlaceError as error:
                await loop.sock_sendall(sock, b"503 %s\n" % error.cause.encode())
        except OSError:
            self.table.release(sock)
        finally:
            sock.close()

    async def live(self) -> None:
        """Until SIGTERM, and the last caller."""
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        self.row.ticked(time.monotonic(), 0.0)
        self.table.shedding = False
        self.door.start()
        while not (told.is_set() and not self.tasks):
            self.row.ticked(time.monotonic(), 0.0)
            if told.is_set() and not self.table.draining:
                self.table.draining = True
                self.door.stop()
            await asyncio.sleep(TICK_SECONDS)
        self.hand_over.close()
        self.door.close()


def main() -> None:
    """One toy worker."""
    log.configure(Log(level="warning", format="json"), slot=None)
    seat, table_fd, door_fd = (int(word) for word in sys.argv[1:4])
    words = memoryview(mmap.mmap(table_fd, 0)).cast("q")

    async def live() -> None:
        await ToyWorker(seat, words, door_fd, Path(sys.argv[4])).live()

    uvloop.run(live())


if __name__ == "__main__":
    main()
