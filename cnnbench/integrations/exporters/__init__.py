"""A run in the formats of other tools: functions that take a run and give `Converted`."""
