"""All that touches the machine: settings, log, clock, bus (NATS), storage (lake, SQL), Intake."""
