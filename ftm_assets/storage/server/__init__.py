"""The PostgreSQL server: embedded or your own, connections, locks, migrations."""
