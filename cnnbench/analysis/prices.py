"""What machines cost and what power they draw, as people write it into a small YAML file.

currency: EUR
machines:
  server:              # a machine as `cnnbench compare` names it
    price_per_hour: 0.80
    watts: 250
"""

from collections.abc import Collection
from pathlib import Path

from pydantic import Field, ValidationError

from cnnbench.errors import InputError, unknown
from cnnbench.suite.case import Frozen
from cnnbench.suite.yaml_lines import read_yaml


class Cost(Frozen):
    """Of one machine; what is not given is not known."""

    price_per_hour: float | None = Field(None, gt=0, allow_inf_nan=False)
    watts: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Drawn while it works."""


class Prices(Frozen):
    """The whole file."""

    currency: str = Field("unit of currency", min_length=1)
    machines: dict[str, Cost] = {}


def read_prices(path: Path, machines: Collection[str]) -> Prices:
    """Read and check. Raises InputError, with file and line, for a mistake or a machine that is not compared."""
    source = read_yaml(path)
    try:
        prices = Prices.model_validate({} if source.data is None else source.data)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"][0].lower() + first["msg"][1:]
        raise InputError(f"{source.place(first['loc'])}: {message}; got {first['input']!r}") from None
    for name in prices.machines:
        if name not in machines:
            raise InputError(f"{source.place(('machines', name))}: {unknown('machine', name, machines)}")
    return prices
