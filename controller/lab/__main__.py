"""`python -m controller.lab`: the lab's commands without the rest of the command line."""

from controller.lab.commands import app

app()
