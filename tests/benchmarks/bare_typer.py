"""A bare program of two commands, whose help is the unit of start-up time."""

import typer

app = typer.Typer()


@app.command()
def one(name: str = "x") -> None:
    """The first command."""


@app.command()
def two(count: int = 1) -> None:
    """The second command."""


if __name__ == "__main__":
    app()
