"""The learning rate's schedules, against torch.optim.lr_scheduler's."""

import pytest
import torch
from torch.optim import lr_scheduler

from cnnbench.suite.schedule import Schedule

STEPS, EPOCHS = 10, 6


def torchs(schedule: Schedule, rate: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], rate)
    warm, total = round(schedule.warmup * STEPS), STEPS * EPOCHS
    after: lr_scheduler.LRScheduler
    if schedule.name == "step":
        after = lr_scheduler.StepLR(optimizer, round(schedule.every * STEPS), schedule.gamma)
    elif schedule.name == "cosine":
        after = lr_scheduler.CosineAnnealingLR(optimizer, total - warm)
    else:
        after = lr_scheduler.ConstantLR(optimizer, 1.0, 1)
    if warm:
        growing = lr_scheduler.LinearLR(optimizer, 1 / warm, total_iters=warm - 1)
        after = lr_scheduler.SequentialLR(optimizer, [growing, after], [warm])
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        after.step()
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # torch's SequentialLR gives it
@pytest.mark.parametrize("warmup", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("name", ["constant", "step", "cosine"])
def test_rates_are_torchs(name: str, warmup: float) -> None:
    schedule = Schedule.model_validate({"name": name, "warmup": warmup, "every": 1.5, "gamma": 0.2})
    ours = [0.3 * schedule.factor(step, STEPS, EPOCHS) for step in range(STEPS * EPOCHS)]
    assert ours == pytest.approx(torchs(schedule, 0.3), rel=1e-9, abs=1e-12)
