"""What machines cost and what power they draw, as people write it into a small YAML file.

currency: EUR
machines:
  server:              # a machine as `cnnbench compare` names it
    price_per_hour: 0.80
    watts: 250
"""

from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cnnbench.errors import InputError, unknown
from cnnbench.suite.yaml_lines import read_yaml


class Cost(BaseModel):
    """Of one machine; what is not given is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    price_per_hour: float | None = Field(None, gt=0, allow_inf_nan=False)
    watts: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Drawn while it works."""


class Prices(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = Field("unit of currency", min_length=1)
    machines: dict[str, Cost] = {}


def read_prices(path: Path, machines: Collection[str]) -> Prices:
    """Read and check. Raises InputError, with file and line, for a mistake or a machine that is not compared."""
    source = read_yaml(path)
    try:
        prices = Prices.model_validate({} if source.data is None else source.data)
    except ValidationError as error:
        first = error.errors()[0]
        where = tuple(part for part in first["loc"])
        message = first["msg"][0].lower() + first["msg"][1:]
        raise InputError(f"{source.place(where)}: {message}; got {first['input']!r}") from None
    for name in prices.machines:
        if name not in machines:
            raise InputError(f"{source.place(('machines', name))}: {unknown('machine', name, machines)}")
    return prices
