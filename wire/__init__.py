"""What travels between till and central; the only package that the ends share."""
