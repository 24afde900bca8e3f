"""Recordings as samples: decoding, windows, alignment with a reference, measured facts. Needs no torch."""

RATE = 16_000  # Hz, of everything after decoding
