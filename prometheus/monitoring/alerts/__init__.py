"""Alerts: what is wrong is read, kept as rows, and told."""
