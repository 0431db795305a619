"""Rows for a schema that has none: `rows` fills the tables, `values` knows the types."""
