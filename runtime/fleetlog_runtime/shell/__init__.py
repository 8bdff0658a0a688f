"""The thin shell: NATS, files, clocks and processes."""
