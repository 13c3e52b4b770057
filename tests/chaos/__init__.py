"""The product under an enemy: real processes, real servers, and everything that goes wrong."""
