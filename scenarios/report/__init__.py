"""The report of a run: its data (`document`), its plots, its page."""
