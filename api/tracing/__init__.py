"""The way of one message from the wire to the screen. Clause 9.2a."""
