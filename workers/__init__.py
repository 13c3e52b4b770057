"""Celery's entry points: ``celery -A workers worker | beat | inspect | flower``."""

from workers.app import app

__all__ = ["app"]
