"""Frames of readings as answers: JSON, CSV and Arrow."""
