"""Clock, tasks, logs and metrics of the process."""
