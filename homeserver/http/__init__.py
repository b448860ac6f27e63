"""Endpoints as declarations, and the server that serves them."""
