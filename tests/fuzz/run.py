"""Fuzz the parsers: python tests/fuzz/run.py [--executions N] [--seed S] [--only TARGET ...].

Every input is a spoilt copy of a file in tests/fuzz/corpus. The same seed gives the same inputs. An
input that makes a parser do what it does not document is kept in build/fuzz, and the exit status is
1: fix the parser, and add the input to the corpus, which the tests go through.
"""

import argparse
import faulthandler
import hashlib
import os
import random
import resource
import sys
import time
import warnings
from pathlib import Path

from mutation import mutated, mutated_arguments
from targets import TARGETS, Finding, Target, command_words, work_folder

MEMORY = 6 << 30
"""Limit on address space in bytes: exceeding it means that an absurd number was not checked."""
SLOW = 5.0
"""Seconds of processor time after which an input counts as a finding."""
FOUND = Path("build/fuzz")


def main() -> int:
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executions", type=int, default=100_000, help="in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=names, action="append", help="one target; repeatable")
    parser.add_argument("--keep-going", action="store_true", help="to 20 findings a target")
    given = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("ignore")
    os.environ.pop("TTFS_FAST_DATA", None)
    chosen = [target for target in TARGETS if given.only is None or target.name in given.only]
    total = sum(target.share for target in chosen)
    found = FOUND.resolve()
    print(f"seed {given.seed}, {given.executions:,} executions", flush=True)
    done = findings = 0
    with work_folder() as folder:
        os.chdir(folder)
        _import_everything()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        for target in chosen:
            count = round(given.executions * target.share / total)
            wrong = fuzz(target, count, given.seed, folder, found, 20 if given.keep_going else 1)
            done += count
            findings += wrong
    print(f"{done:,} executions, {findings} findings")
    return 1 if findings else 0


def _import_everything() -> None:
    """Before the limit on memory, which the libraries' threads and caches would count toward."""
    command_words()


def fuzz(target: Target, count: int, seed: int, folder: Path, found: Path, most: int) -> int:
    """Run a target on so many inputs; the number of findings."""
    chance = random.Random(f"{target.name} {seed}")
    corpus = target.files()
    words = command_words() if target.name == "command" else []
    lines = [content.decode().split("\n") for content in corpus] if words else []
    words += [word for line in lines for word in line]
    taken = wrong = 0
    begin = last = time.monotonic()
    place = folder / target.name
    place.mkdir()
    for number in range(count):
        if number < len(corpus):  # first the corpus as it is: what was fixed once stays fixed
            content = corpus[number]
        elif words:
            content = "\n".join(mutated_arguments(chance, lines, words)).encode(errors="replace")
        else:
            content = mutated(chance, corpus, target.words)
        clock = time.process_time()
        try:
            taken += target.try_one(content, place)
            if time.process_time() - clock > SLOW:
                raise Finding(f"takes {time.process_time() - clock:.1f} s")
        except Finding as finding:
            wrong += 1
            found.mkdir(parents=True, exist_ok=True)
            path = found / f"{target.name}-{hashlib.sha256(content).hexdigest()[:12]}"
            path.write_bytes(content)
            print(f"{target.name}, input {number}, kept as {path}:\n  {str(finding)[:300]}")
            if wrong >= most:
                break
        if time.monotonic() - last > 60:
            last = time.monotonic()
            print(f"  {target.name}: {number + 1:,} of {count:,}", flush=True)
    print(
        f"{target.name}: {count:,} inputs, {taken:,} taken, {wrong} findings, "
        f"{time.monotonic() - begin:.0f} s",
        flush=True,
    )
    return wrong


if __name__ == "__main__":
    sys.exit(main())
