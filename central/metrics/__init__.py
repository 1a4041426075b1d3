"""Figures for Prometheus: a worker's own from its memory, the fleet's from the database; none is told twice."""
