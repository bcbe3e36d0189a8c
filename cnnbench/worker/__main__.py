"""`python -m cnnbench.worker`: one JSON request per line in, one reply per line out."""

from cnnbench.worker.loop import main

main()
