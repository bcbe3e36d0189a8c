"""Apache Parquet: `.cases.parquet` and `.samples.parquet`, with types kept."""

import io

from cnnbench.errors import InputError
from cnnbench.integrations.exporters import frames
from cnnbench.integrations.exporters.converted import Converted, unrecorded_lines
from cnnbench.records.run_folder import Run


def convert(run: Run) -> Converted:
    """The run as two tables. Raises InputError where pyarrow is not installed."""
    files = {}
    for name, table in ((".cases.parquet", frames.cases(run)), (".samples.parquet", frames.samples(run))):
        stream = io.BytesIO()
        try:
            table.to_parquet(stream, engine="pyarrow", index=False)
        except ImportError:
            raise InputError(
                "--to parquet: expected pyarrow, which writes it; it is not installed: pip install 'cnnbench[parquet]'"
            ) from None
        files[name] = stream.getvalue()
    return Converted(files, [frames.LOST, *unrecorded_lines(run)])
