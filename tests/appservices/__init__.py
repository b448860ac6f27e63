"""Application services, as real HTTP servers that remember what they were sent."""
