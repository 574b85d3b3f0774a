"""Measurement: how far students are from their teachers, and what training leaves of errors."""
