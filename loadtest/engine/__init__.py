"""Scenarios: descriptions of a load in TOML, and the engine that runs them (docs/loadtest.md)."""
