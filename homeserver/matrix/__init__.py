"""The rules of Matrix as pure functions: no network, no disk, no clock."""
