"""Price and factor feeds: what they are to Prometheus, and those it ships."""
