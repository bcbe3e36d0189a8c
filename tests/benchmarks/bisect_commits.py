"""How often a search over 64 commits names the one that changed the time, on simulated machines.

python -m tests.benchmarks.bisect_commits [--searches 200]
"""

import argparse
from statistics import mean

from tabulate import tabulate

from cnnbench.analysis.bisection import SURE, has_changed
from tests.noise import BAD, QUIET, TYPICAL
from tests.test_bisect import COMMITS, searched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=200, help="of each machine and size")
    options = parser.parse_args()
    rows = []
    for name, machine in (("quiet", QUIET), ("typical", TYPICAL), ("bad", BAD)):
        for size in (0.0, 0.02, 0.05):
            found = [searched(machine, seed, size) for seed in range(options.searches)]
            changed = [has_changed(search.logs[COMMITS]) for search, _ in found]
            named = [
                int(search.believed.argmax()) + 1 - culprit
                for (search, culprit), has in zip(found, changed, strict=True)
                if has and search.believed.max() >= SURE
            ]
            right = named.count(0) if size else 0
            pairs, visits = (mean(getattr(search, what) for search, _ in found) for what in ("pairs", "visits"))
            shares = (f"{count / len(found):.1%}" for count in (right, len(named) - right, len(found) - len(named)))
            rows.append([name, f"{size:.0%}", *shares, f"{pairs:.0f}", f"{visits:.0f}"])
    headings = ["noise", "change", "named rightly", "wrongly", "not named", "pairs", "visits"]
    print(tabulate(rows, headings, "pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
