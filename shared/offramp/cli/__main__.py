"""`python -m offramp.cli`, the same as `offramp`."""

from offramp.cli.main import main

main()
