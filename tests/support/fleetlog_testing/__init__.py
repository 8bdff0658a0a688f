"""Helpers that several test suites share: real parts, and builders of events."""
