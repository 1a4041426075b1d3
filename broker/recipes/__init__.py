"""Owns the configurations of other brokers that take the embedded one's place, made from the one topic table."""
