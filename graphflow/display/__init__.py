"""How a run is shown while it runs and at its end: on a terminal, in a log and in a notebook."""
