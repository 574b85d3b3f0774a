"""Denoisers: what a teacher says of x_0 and of the noise, and the networks behind it."""
