"""Fleets of simulated devices, benchmarks and reports; never imports `gateway`."""
