"""Finding, asking and answering other servers."""
