"""Media: what users upload, what other servers' users have uploaded, and small forms of both."""
