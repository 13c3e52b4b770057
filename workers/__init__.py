"""Celery's entry point: ``celery -A workers inspect | flower | worker | ...``."""

import gc

# What is imported here stays: to look for garbage in it, now and as Python ends, would take a third
# of the time.
gc.disable()
try:
    from workers.app import app
finally:
    gc.freeze()
    gc.enable()

__all__ = ["app"]
