"""What runs a unit: pure contracts and the shell that performs effects."""
