"""Load, micro-benchmarks and honest counterparties for every wire."""
