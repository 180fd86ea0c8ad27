"""The command line's commands about settings."""
