"""The rows of the table that `stress/bench.py` prints, by how many processes they need."""
