"""One module per group of commands; each command is a thin call of the store or the services."""
