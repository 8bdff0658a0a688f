"""The version of everything in this distribution: the one place that says it. Imports nothing, for the command line reads it."""

VERSION = "0.3.0"
