"""Verify what agents report and append it to the log."""
