"""Durable tables on SQLite and PostgreSQL; the only place where SQL stands."""
