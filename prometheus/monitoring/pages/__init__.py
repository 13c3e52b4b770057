"""Pages for people: drawn on the server, and kept up to date by a few lines in the browser."""
