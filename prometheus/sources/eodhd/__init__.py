"""The client of eodhd.com, and the price and factor feeds that it serves."""
