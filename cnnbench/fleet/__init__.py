"""A suite on many machines: each runs the ordinary command by itself, and tells what it has finished.

driver.py        the machines of a fleet, their runs' folders as they arrive, attempts that are made again
transport.py     what the driver needs of a cluster;  ray_cluster.py: Ray
task.py          runs in Ray's worker on a node: starts the node's program, by the standard library alone
node.py          the node's program: starts the ordinary command and sends on what that writes
alone.py         the ordinary command, alone on its host
artifacts.py     artifacts that are built once and travel;  own_models.py: users' packages and model files do
messages.py      what they send each other: JSON, checked on arrival;  arrival.py: a run's folder as it arrives
"""
