"""The run as MLflow sees it: parameters, metrics, artifacts."""
