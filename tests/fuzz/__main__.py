"""python -m tests.fuzz: damaged files by the hundred thousand; only errors of twofold may come of them.

python -m tests.fuzz --count 100000 --seed 7           everything; the seed is printed, and chosen when not given
python -m tests.fuzz --target modules --count 5000     one kind of file
python -m tests.fuzz --target modules --seed 7 --only 123 --keep /tmp/found    one input again, its files kept
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from random import SystemRandom

from tests.fuzz.targets import TARGETS
from tests.fuzz.watch import Job, Result, jobs, keep, run


def main() -> int:
    """Run, print counts and findings; 1 when there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--target", choices=[target.name for target in TARGETS], action="append")
    parser.add_argument("--only", type=int, help="one input of one target, by its number")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", type=Path, help="folder to write the files of findings into")
    chosen = parser.parse_args()
    seed = SystemRandom().randrange(2**32) if chosen.seed is None else chosen.seed
    print(f"seed {seed}", flush=True)
    begin = time.monotonic()
    targets = [target for target in TARGETS if not chosen.target or target.name in chosen.target]
    if chosen.only is None:
        todo = list(jobs(seed, chosen.count, targets))
    else:
        todo = [Job(seed, target, chosen.only, chosen.only + 1) for target in targets]
    result = run(todo, chosen.workers)
    describe(result, time.monotonic() - begin)
    for target in targets if chosen.keep else ():
        found = [finding.index for finding in result.findings if finding.target == target.name]
        for index in found if chosen.only is None else [chosen.only]:
            print(f"kept in {keep(chosen.keep, target, index, seed)}")
    return int(bool(result.findings))


def describe(result: Result, seconds: float) -> None:
    """Counts by target, then every finding."""
    for target in TARGETS:
        found = sum(finding.target == target.name for finding in result.findings)
        read, refused = result.read[target.name], result.refused[target.name]
        count = read + refused + found
        if count:
            print(
                f"{target.name:12} {count:7} inputs: {read} read, {refused} refused, {found} findings, at most "
                f"{result.widest[target.name] / 2**20:.1f} MiB allocated"
            )
    for finding in result.findings:
        print(f"\n{finding.target} {finding.index}: {finding.what}")
    print(f"{result.count} inputs in {seconds:.0f} s, {len(result.findings)} findings")


if __name__ == "__main__":
    sys.exit(main())
