"""SQLite databases and queries to PostgreSQL, and the proof that both give the same."""
