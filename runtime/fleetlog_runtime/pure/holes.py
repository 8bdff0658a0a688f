"""Notice that a copy of a stream lacks messages, where nothing is ever taken out of the middle. Pure.

The server hands out what its copy still has and says nothing of what it finds damaged; so a gap is the only sign.
"""

from __future__ import annotations

from fleetlog_runtime.pure.bus import Stored


class Hole(Exception):
    """A copy of a stream that has every message lacks one: its disk was damaged. Nothing after it may be used."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"message {seq} is missing")
        self.seq = seq


class Holes:
    """Sees to it that every sequence comes, of a stream from which nothing is ever taken out of the middle.

    What was found missing again and again is given up: no copy has it.
    """

    def __init__(self, next_seq: int) -> None:
        """Expect *next_seq*."""
        self.next_seq = next_seq
        self._met: dict[int, int] = {}
        self._given_up: set[int] = set()

    def met(self, seq: int, tries_max: int) -> bool:
        """Count a hole, and tell whether it was met so often that no copy can be expected to have the message."""
        self._met[seq] = self._met.get(seq, 0) + 1
        if self._met[seq] >= tries_max:
            self._given_up.add(seq)
            del self._met[seq]
            return True
        return False

    def before(self, seq: int) -> list[Stored]:
        """Return what stands for messages before *seq* that nobody has: they cannot be read, and readers say so.

        Raises:
            Hole: another copy may have them.
        """
        lost: list[Stored] = []
        while self.next_seq < seq:
            if self.next_seq not in self._given_up:
                raise Hole(self.next_seq)
            lost.append(Stored(seq=self.next_seq, subject="", time_ms=0, body=b"", batch_end=True))
            self.next_seq += 1
        self.next_seq = seq + 1
        return lost
