"""The nine jobs of the standard pipeline, from prices to books, and the tables they write."""
