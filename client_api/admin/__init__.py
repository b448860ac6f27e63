"""The API of administrators and their tools."""
