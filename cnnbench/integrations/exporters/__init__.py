"""A run in the formats of other tools: one file per format, each with a function `convert(run) -> Converted`."""
