"""Composition root: command line, wiring, supervisor, topologies. The only place that reads the environment."""
