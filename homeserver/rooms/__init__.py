"""Everything that changes a room or reads its history."""
