"""What belongs to a user or a device."""
