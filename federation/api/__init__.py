"""What this server answers to other servers: one module per chapter of the specification."""
