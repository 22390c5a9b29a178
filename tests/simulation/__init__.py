"""The platform's own parts on virtual time, over a bus, a lake and snapshots in memory, with every fault from one seed."""
