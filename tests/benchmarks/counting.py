"""How long it takes to count every convolutional classifier of torchvision: by formula, and with fvcore.

    python -m tests.benchmarks.counting [--rounds 3]

Whole processes, in turn in one run, Python's start and imports included; fvcore's also builds the modules that it runs,
and what building alone takes is shown apart.
"""

import argparse
import statistics
import subprocess
import sys
import time

BY_FORMULA = """
from cnnbench.networks.registry import ARCHITECTURES
networks = [each.network() for each in ARCHITECTURES.values() if each.from_torchvision]
print(len(networks), sum(network.params for network in networks), sum(network.macs for network in networks))
"""

BUILD = """
import time, warnings
warnings.simplefilter("ignore")
import torch
from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.suite.case import ModelSpec
from cnnbench.worker import models
from cnnbench.worker.counters.module import traced_by_fvcore
params = macs = 0
names = [name for name, each in ARCHITECTURES.items() if each.from_torchvision]
for name in names:
    module, image = models.build(ModelSpec(model=name))
    params += sum(p.numel() for p in module.parameters())
    {count}
print(len(names), params, macs)
"""

WITH_FVCORE = "macs += sum(pair[1] for pair in traced_by_fvcore(module.eval(), torch.zeros(1, *image)).values())"

WAYS = {
    "closed forms": BY_FORMULA,
    "building the modules": BUILD.format(count="pass"),
    "building, and fvcore": BUILD.format(count=WITH_FVCORE),
}


def main() -> None:
    """Print the seconds of each way, and the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for done in range(rounds):
        for way, script in WAYS.items():
            start = time.perf_counter()
            said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
            seconds[way].append(time.perf_counter() - start)
            print(f"round {done + 1} of {rounds}: {way}, {seconds[way][-1]:.2f} s: {said.strip()}", flush=True)
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    for way, median in medians.items():
        print(f"{way:22} {median:8.2f} s")
    closed, _, fvcore = medians.values()
    print(f"fvcore takes {fvcore / closed:.0f} times as long")


if __name__ == "__main__":
    main()
