"""Behaviour: the columnar runtime and the actors that live in it. Cells are pure; one shell hosts them on Ray."""

import gc

# What is loaded is no garbage, and Python would look for cycles in it hundreds of times: see `runtime.garbage`
gc.set_threshold(20_000, 20, 20)
