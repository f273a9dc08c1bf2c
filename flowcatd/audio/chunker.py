"""Any sizes in, frames of exactly one size out.

A paced wire wants 20 ms at a time; carriers, resamplers and providers hand over what they have. The
chunker keeps less than one frame between pushes, so it needs no limit of its own: what comes out of
one push is bounded by what went in. It knows nothing of samples or time, only of bytes.

The usual case, one whole frame in and nothing held, costs no copy: the same object comes out.
"""

from __future__ import annotations

from flowcatd.errors import LocalError


class Chunker:
    """Cuts one stream of bytes into frames of `size_bytes`."""

    __slots__ = ("_held", "_size")

    def __init__(self, size_bytes: int) -> None:
        if size_bytes < 1:
            raise LocalError(f"a frame of {size_bytes} bytes cannot be cut")
        self._size = size_bytes
        self._held = b""

    def push(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes, oldest first; an empty list when it completes none."""
        size = self._size
        if not self._held:
            if len(data) == size:
                return [data]
        elif data:
            data = self._held + data
        else:
            return []
        whole = len(data) - len(data) % size
        self._held = data[whole:]
        return [data[start : start + size] for start in range(0, whole, size)]

    def flush(self, pad: bytes) -> bytes | None:
        """What is held as one last frame, filled up by repeating `pad`; None when nothing is held.

        `pad` is one sample of silence (`g711.MULAW_SILENCE` and its like).
        """
        if not self._held:
            return None
        if not pad:
            raise LocalError("nothing cannot fill up a frame")
        missing = self._size - len(self._held)
        last = self._held + (pad * -(-missing // len(pad)))[:missing]
        self._held = b""
        return last

    def clear(self) -> None:
        """Forget what is held: the stream was interrupted."""
        self._held = b""

    @property
    def pending(self) -> int:
        """How many bytes are held: less than one frame."""
        return len(self._held)
