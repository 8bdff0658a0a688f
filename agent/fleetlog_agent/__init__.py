"""Run commands on one host and report what happened."""
