"""Simplified sliding sync: the rooms that a client asks for, as it asks for them (MSC4186)."""
