"""A real deployment, hurt on purpose: `python -m tests.faults` (make faults)."""
