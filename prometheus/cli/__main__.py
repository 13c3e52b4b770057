"""``python -m prometheus.cli``: the same as ``prometheus``."""

from prometheus.cli import main

main()
