"""A checker in the manner of Jepsen: real processes, writers, faults, and a judge that is a file; see docs/checker.md."""
