"""The dashboard: thin pages over queries (store to frame), charts (frame to figure) and forms (schema to widgets)."""
