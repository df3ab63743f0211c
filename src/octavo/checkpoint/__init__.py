"""Model files: names, dtypes, shapes and lazy bytes. Knows no model."""
