"""The server-server API: finding, asking and answering other homeservers."""
