"""An imitation of eodhd.com on a loopback port, and replies that nobody would send on purpose."""
