"""WHERE it rests: tables, migrations, the IO manager, queries and the embedded server."""
