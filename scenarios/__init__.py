"""Stories as data (TOML), the runner that plays them against a live platform, and its report."""
