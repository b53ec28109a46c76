"""Tells the router what the store holds."""
