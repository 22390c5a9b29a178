"""Scores and detectors: functions of columns. No bus, no Ray, no clock."""
