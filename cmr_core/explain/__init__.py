"""Exact reasons for a recommendation."""
