"""The web process: what an installation does, for programs and people who look."""
