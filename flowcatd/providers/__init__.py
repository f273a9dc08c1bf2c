"""Which provider speaks which dialect: rows only."""
