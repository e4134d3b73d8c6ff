"""Corrupted copies of files: bytes flipped, cut or repeated, absurd numbers."""

import random
from collections.abc import Sequence

ABSURD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
LARGEST = 1 << 16
"""Size in bytes to which a corrupted file is truncated."""


def mutated(chance: random.Random, corpus: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
    """A file of the corpus after one to four random changes.

    Parameters
    ----------
    chance : random.Random
        Decides everything.
    corpus : sequence of bytes
        Whole files.
    words : sequence of bytes
        What means something in the format: put in at random places.
    """
    data = bytearray(chance.choice(corpus))
    for _ in range(1 + min(3, int(chance.expovariate(1.0)))):
        _change(chance, data, corpus, words)
    return bytes(data[:LARGEST])


def _change(
    chance: random.Random, data: bytearray, corpus: Sequence[bytes], words: Sequence[bytes]
) -> None:
    at = chance.randrange(len(data) + 1)
    if chance.random() < 0.3:  # headers decide most
        at = min(at, chance.randrange(64))
    end = min(len(data), at + 1 + int(chance.expovariate(1 / 16)))
    kind = chance.randrange(9 if words else 7)
    if kind == 0 and data:
        for _ in range(chance.randrange(1, 9)):
            data[min(at, len(data) - 1)] ^= 1 << chance.randrange(8)
            at = chance.randrange(len(data))
    elif kind == 1:
        data[at:end] = chance.randbytes(end - at)
    elif kind == 2:
        value, size = chance.choice(ABSURD), chance.choice((1, 2, 4, 8))
        order = chance.choice(("little", "big"))
        data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, order)  # type: ignore[arg-type]
    elif kind == 3:
        del data[at:]
    elif kind == 4:
        del data[at:end]
    elif kind == 5:
        data[at:at] = data[at:end] * chance.choice((1, 1, 2, 50))
    elif kind == 6:  # a piece of another file
        other = chance.choice(corpus)
        begin = chance.randrange(len(other) + 1)
        data[at:end] = other[begin : begin + chance.randrange(1, 65)]
    elif kind == 7:
        data[at:at] = chance.choice(words)
    elif kind == 8:
        data[at:end] = chance.choice(words)


def mutated_arguments(
    chance: random.Random, corpus: Sequence[list[str]], words: Sequence[str]
) -> list[str]:
    """A command line of the corpus with words inserted, removed, exchanged or corrupted."""
    line = list(chance.choice(corpus))
    for _ in range(1 + min(4, int(chance.expovariate(0.7)))):
        at = chance.randrange(len(line) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            line.insert(at, chance.choice(words))
        elif kind == 1 and at < len(line):
            del line[at]
        elif kind == 2 and at < len(line):
            line[at] = chance.choice(words)
        elif kind == 3 and at < len(line):
            line[at] = mutated(chance, [line[at].encode()]).decode(errors="replace")
        else:
            other = chance.choice(corpus)
            line[at:at] = other[chance.randrange(len(other) + 1) :]
    return [word.replace("\0", "") for word in line[:40]]
