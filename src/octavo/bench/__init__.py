"""Measurements, and the record kept of them."""
