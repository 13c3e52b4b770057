"""Celery's entry points: ``celery -A workers worker | beat | inspect | flower``."""

import gc

# What is imported stays: to look for garbage in it would take a sixth of the time.
gc.disable()
try:
    from workers.app import app
finally:
    gc.enable()

__all__ = ["app"]
