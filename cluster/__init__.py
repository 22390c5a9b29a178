"""Composition root: command line, wiring, supervisor, topologies. The only place that reads the environment."""

import gc

# modules are no garbage: looking for it among them took a tenth of each start. `runtime.garbage` has the last word
gc.set_threshold(100_000, 50, 100)
