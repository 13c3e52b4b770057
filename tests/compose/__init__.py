"""The shipped compose file on a real engine: ``make compose-test``."""
