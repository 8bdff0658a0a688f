"""The verbs of the command line: each takes a Console and returns an exit code."""
