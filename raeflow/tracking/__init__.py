"""What a study did, kept in MLflow; the only room that imports mlflow, and only when a `Tracker` is made."""

from raeflow.tracking.tracker import ALIAS, Tracker

__all__ = ["ALIAS", "Tracker"]
