"""How long a history of 100,000 entries takes to read, on this machine.

python -m tests.benchmarks.history_store [--entries 100000]
"""

import argparse
import tempfile
import time
from pathlib import Path

from cnnbench.history.store import read_history
from tests.test_history import MACHINE, entry

VERSIONS = {"python": "3.11.7", "torch": "2.14.1", "torchvision": "0.29.1", "onnx": "1.23.2", "onnxruntime-gpu": "1.31"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{MACHINE}.jsonl"
        with file.open("w") as stream:
            for number in range(1, options.entries + 1):
                stream.write(entry(1 + number % 3000, versions=VERSIONS, pairs=number).line + "\n")
        size = file.stat().st_size
        for _ in range(3):
            began, used = time.perf_counter(), time.process_time()
            read = len(read_history(Path(folder)).entries)
            wall, cpu = time.perf_counter() - began, time.process_time() - used
            print(f"{read:,} entries, {size / 1e6:.0f} MB: {wall:.2f} s, {cpu:.2f} s of CPU time", flush=True)


if __name__ == "__main__":
    main()
