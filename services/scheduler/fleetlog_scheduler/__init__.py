"""Decide which ticks of which schedules are fired; see README.md beside this package."""
