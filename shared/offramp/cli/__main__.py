"""`python -m offramp.cli`, the same as `offramp`."""

from offramp.cli.main import main

if __name__ == "__main__":
    main()
