"""Contracts without I/O: effects, engine, limits, settings, clock, bus types."""
