"""The database and the blobs. The only package that touches them; permissions are checked here."""
