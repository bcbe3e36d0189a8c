"""What a comparison of many machines takes: time, memory, and the size of its page.

    python -m tests.benchmarks.comparison [--machines 1000] [--cases 200] [--hardware 12] [--keep DIR]

The runs are synthetic: each case has one launch of 13 blocks of 20 samples, as those of the bundled suites have on
average. Machines of one hardware differ by 3 % (standard deviation), cases on them by 1 % more, blocks by 0.5 %.
`cnnbench compare --out` then runs in a process of its own, which is timed.
"""

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cnnbench.records.lines import record_line, shared_values
from cnnbench.records.run_folder import About
from tests.records import ENVIRONMENT, case, record

BLOCKS, SAMPLES = 13, 20
MODELS = ("lenet5", "alexnet", "vgg11", "resnet18", "mobilenet_v2")
SPREADS = {"machine": 0.03, "case": 0.01, "block": 0.005}


def write_runs(folder: Path, machines: int, cases: int, kinds: int, drawn: random.Random) -> list[Path]:
    """A run's folder for each machine."""
    batches = range(1, math.ceil(cases / len(MODELS)) + 1)
    made = [case("eager", "inference", batch=batch, model=model) for model in MODELS for batch in batches][:cases]
    records = [record(each, [0.01] * BLOCKS, samples=SAMPLES) for each in made]
    lines = [json.loads(record_line(each)) for each in records]
    shared = {digest: each for one in records for digest, each in shared_values(one).items()}
    about = About(suite="synthetic", started="2026-01-01T00:00:00+00:00", cases=[each.id for each in made])
    folders = []
    for number in range(machines):
        kind = number % kinds
        of_kind = ENVIRONMENT.machine.model_copy(update={"cpu": f"Processor {kind}"})
        run = folder / f"m{number:04}"
        run.mkdir(parents=True)
        (run / "run.json").write_text(about.model_dump_json())
        (run / "suite.yaml").write_text("models: [lenet5]\n")
        (run / "environment.json").write_text(ENVIRONMENT.model_copy(update={"machine": of_kind}).model_dump_json())
        (run / "shared.jsonl").write_text(
            "".join(each.model_dump_json(exclude_unset=True) + "\n" for each in shared.values())
        )
        with (run / "records.jsonl").open("w") as file:
            of_machine = (1 + kind / 4) * math.exp(drawn.gauss(0, SPREADS["machine"]))
            for each, line in zip(made, lines, strict=True):
                seconds = 0.001 * each.batch * of_machine * math.exp(drawn.gauss(0, SPREADS["case"]))
                for block in line["launches"][0]["blocks"]:
                    of_block = seconds * math.exp(drawn.gauss(0, SPREADS["block"]))
                    block["seconds"] = {"forward": [of_block * (1 + 1e-4 * place) for place in range(SAMPLES)]}
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
        folders.append(run)
    return folders


def main() -> None:
    """Make runs, compare them, print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--hardware", type=int, default=12)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = asked.keep or Path(name)
        runs = folder / "runs"
        if not runs.exists():
            write_runs(runs, asked.machines, asked.cases, asked.hardware, random.Random(0))
        folders = sorted(runs.iterdir())
        bytes_ = sum(file.stat().st_size for run in folders for file in run.iterdir())
        print(f"{len(folders)} runs, {bytes_ / 1e6:.0f} MB", flush=True)
        out = folder / "compared"
        words = [sys.executable, "-m", "cnnbench", "compare", *map(str, folders), "--out", str(out)]
        start = time.perf_counter()
        done = subprocess.run(words, stdout=subprocess.PIPE, env={**os.environ, "COLUMNS": "160"})
        seconds = time.perf_counter() - start
        assert done.returncode == 0
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        print(
            f"compared in {seconds:.1f} s with at most {peak / 2**30:.2f} GiB; printed {len(done.stdout) / 1e6:.2f} MB"
        )
        for file in sorted(out.rglob("*")):
            if file.is_file():
                print(f"{file.relative_to(out)}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
