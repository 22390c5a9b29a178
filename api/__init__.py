"""REST and live streams for people and programs."""
