"""`python -m graphflow` is the `graphflow` command."""

from graphflow.cli.main import main

if __name__ == "__main__":
    main()
