"""Run `llmctl` as `python -m llmctl`."""

from llmctl.cli.main import main

if __name__ == "__main__":
    main()
