"""`python -m llmctl` is `llmctl`."""

from llmctl.cli.main import main

if __name__ == "__main__":
    main()
