"""The benchmark: the same work by graphflow and by what a user would pick instead, in one run.

`workloads` says what is measured, `peers` how each system does it, `plan` which of them go together,
`measure` runs in the measured process, `isolated` starts it and watches it, `harness` turns all of that
into result lines. `compare`, `table`, `chart`, `svg` and `html` read such lines.
"""
