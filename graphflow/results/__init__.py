"""Result storage and caching over fsspec; not there yet.

Until then, the values of a run live in columns (`graphflow.runner.columns`) as long as the run object does.
"""
