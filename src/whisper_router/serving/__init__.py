"""The router behind MLflow."""
