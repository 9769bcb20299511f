"""`python -m dbqueue`: the command line where no script was installed."""

from dbqueue.cli import main

main()
