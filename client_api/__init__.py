"""The client-server API: one module per chapter of the specification."""
