"""Sample recordings: spoken telephone prompts, clean and with known faults. README.md lists them."""
