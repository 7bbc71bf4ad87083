"""``python -m dcgan_core``: the command line."""

from dcgan_core.cli import main

main()
