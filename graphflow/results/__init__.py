"""Results that outlive a run: stores for objects that are written once, and packs of many values in one object."""
