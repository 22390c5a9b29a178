"""Live streams to clients: one follower of the bus, fanned out by Server-Sent Events."""
