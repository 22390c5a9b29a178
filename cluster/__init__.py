"""Composition root: command line, wiring, supervisor, topologies. The only place that reads the environment."""

import gc

# What is loaded is no garbage, and Python would look for cycles in it hundreds of times: see `runtime.garbage`
gc.set_threshold(20_000, 20, 20)
