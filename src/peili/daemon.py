"""The node: wiring, readiness and shutdown."""
