"""Where experiments and their records are stored: a spool on disk, delivered to SQLite or PostgreSQL."""

import logging

# Alembic tells at INFO that it was imported, part by part, and what it looks at; upgrade.py says what it did.
logging.getLogger("alembic").setLevel(logging.WARNING)
