"""``python -m ictl_utils`` is ``ictl``."""

from .cli import main

main()
