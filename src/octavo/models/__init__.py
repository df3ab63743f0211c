"""Architectures as data: checkpoint names and specifications. No arithmetic."""
