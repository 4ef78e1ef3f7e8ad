"""Two checkouts of this project in turn: whether a change made inference or a training step slower.

    git worktree add ../before main
    python benchmarks/benchmark_checkouts.py ../before . --out checkouts.json

Each checkout has a process of its own for a case, and the two take turns, so that whatever else the machine does meets
both. Ratios are of neighbours: above 1, the second is slower.
"""

import argparse
import os
from pathlib import Path

from paired_processes import CASES, Worker, compare

from m2f.bench.measurement_report import machine, write_results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="json file for the rows")
    args = parser.parse_args()
    checkouts = {"before": args.before.resolve(), "after": args.after.resolve()}
    rows = []
    for case in args.cases:
        workers = {
            name: Worker(checkout, checkout / "benchmarks", case, args.threads) for name, checkout in checkouts.items()
        }
        rows.append(compare(case, workers, args.repetitions))
        print(case, *(f"{key} {rows[-1][key]}" for key in (*checkouts, "ratio")), flush=True)
        write_results({"machine": machine(threads=args.threads), "rows": rows}, args.out)


if __name__ == "__main__":
    main()
