"""A Matrix homeserver: the pure core, rooms, streams, users and the process around them."""

__version__ = "0.1.0"
