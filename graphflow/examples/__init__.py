"""Examples that ship with the package; `graphflow demo` runs the first."""
