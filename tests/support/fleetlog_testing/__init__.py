"""Helpers that several test suites share: real parts, builders of events, and the simulated world."""
