"""Cross-market recommendation: data, protocols, methods, metrics. Imports neither Celery, Streamlit nor SQLAlchemy."""

__version__ = "0.1.0"
