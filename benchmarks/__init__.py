"""Measurements of the hot paths (``make bench``), and of what scales (``make bench-scaling``)."""
