"""Other task queues, measured as fleetlog is. Each module runs in an environment of its own, without fleetlog."""
