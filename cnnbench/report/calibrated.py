"""What a calibration found, to read: how noisy each case is, and what a gate on this machine would see."""

from collections.abc import Mapping, Sequence

import pandas as pd

from cnnbench.analysis.paired import Rule, pairs_needed
from cnnbench.gate.calibration import SLOWDOWNS, Calibration, DetectionPower, noise_of
from cnnbench.gate.procedure import Paired
from cnnbench.report.tables import NONE, Table


def table_of(calibration: Calibration, power: DetectionPower, rule: Rule) -> Table:
    """One row for each case of which enough is known."""
    rows = []
    for name, seen in power.seen.items():
        noise = noise_of(calibration.cases[name])
        assert noise is not None  # there are as many pairs as sight needs
        rows.append(
            {
                "case": name,
                "pairs": noise.pairs,
                "sessions": noise.sessions,
                "pair sd": noise.pair_sd,
                "pair sd upper": noise.pair_sd_upper,
                "launch sd": noise.launch_sd,
                "session sd": noise.session_sd,
                "smallest margin": noise.smallest_margin(rule.max_confirm_pairs),
                "pairs for +1 %": pairs_needed(noise.pair_sd_upper, rule.visible_beyond),
                **{f"seen +{slow:.0%}": share for slow, share in seen.items()},
            }
        )
    data = pd.DataFrame(rows)
    shares = [f"seen +{slow:.0%}" for slow in SLOWDOWNS]
    cells = data.astype(object)
    for column in cells.columns:
        if "sd" in column or column == "smallest margin":
            cells[column] = [NONE if pd.isna(value) else f"{value:.2%}" for value in data[column]]
        elif column in shares:
            cells[column] = [f"{value:.0%}" for value in data[column]]
        else:
            cells[column] = [NONE if pd.isna(value) else str(value) for value in data[column]]
    caption = (
        "Standard deviations of the logarithms: of a pair's ratio, with its upper limit at 95 %; of one launch to the "
        f"next; of one session's median to the next. Smallest margin: what {rule.max_confirm_pairs} pairs tell. Pairs "
        f"that see a change of 1 % beyond the margin. Seen: the share of {power.gates // 4} simulated gates, on pairs "
        f"drawn from these, that call such a slowdown slower with a margin of {rule.margin:.2%}."
    )
    return Table("calibration", "What a gate sees here", caption, cells, data, [])


def lines(power: DetectionPower, found: Mapping[str, Sequence[Paired]], skipped: Mapping[str, str]) -> list[str]:
    """What stands below the table."""
    said = [f"not measured: {name}: {reason}" for name, reason in skipped.items()]
    said += [
        f"not measured: {name}: {reason}"
        for name, pairs in found.items()
        if (reason := next((pair.missing or pair.wrong for pair in pairs if pair.missing or pair.wrong), ""))
    ]
    if power.seen:
        said.append(f"false alarms: in {power.false_alarms:.1%} of {power.gates} simulated gates of these cases")
    return said
