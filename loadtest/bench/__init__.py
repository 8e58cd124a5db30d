"""Every measurement in its short form, one result for all, and two results side by side (docs/loadtest.md)."""
