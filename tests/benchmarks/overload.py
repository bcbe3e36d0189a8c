"""What an overloaded service looks like in an open loop and in a closed one.

    python -m tests.benchmarks.overload

The system under test sleeps for 4 ms, one query at a time, so that it can answer 250 a second at most. The open loop is
LoadGen's Server scenario at rates below and above that; the closed loop, its SingleStream, waits for each answer.
"""

import tempfile
from pathlib import Path

from cnnbench.records.serving_messages import Drive
from cnnbench.worker.serving import loadgen
from tests.test_serving import CALL_S, sleeping

SHARES = (0.5, 0.9, 1.1, 1.5)
QUERIES = (250, 1000)


def main() -> None:
    with tempfile.TemporaryDirectory() as logs:

        def drive(scenario: str, queries: int, rate: float | None = None) -> str:
            about = {
                "expected_s": CALL_S,
                "min_s": 0.0,
                "min_queries": queries,
                "bound_s": 1.0,
                "rate": rate,
                "seed": 1,
            }
            request = Drive.model_validate({"scenario": scenario, "folder": str(Path(logs) / scenario), **about})
            test = loadgen.drive(request, [sleeping], 1, 0.0, 1)
            return f"{1e3 * test.p50_s:.3g} / {1e3 * test.p99_s:.3g}"

        print("| load | p50 / p99 ms, 250 queries | 1,000 queries |\n|---|---|---|")
        closed = " | ".join(drive("single", queries) for queries in QUERIES)
        for share in SHARES:
            row = " | ".join(drive("server", queries, share / CALL_S) for queries in QUERIES)
            print(f"| open loop, {share / CALL_S:.0f} queries/s offered | {row} |", flush=True)
        print(f"| closed loop, as many as are answered | {closed} |")


if __name__ == "__main__":
    main()
