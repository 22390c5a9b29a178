"""The SimPy world: patients, device cohorts, networks, faults. Encodes with gateways/, knows nothing of the platform."""
