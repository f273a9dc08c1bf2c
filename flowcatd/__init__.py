"""Everything one call needs: its audio, its wires, its frames, its processors and its brain.

The map of the rooms, lowest floor first, is in README.md and is checked by tests/test_house.py.
"""

__version__ = "0.1.0"
